"""What is said of a wait that may have no end: that nobody works what is waited for."""

from __future__ import annotations

from . import admin
from .cli import warn


def tell(waited: set) -> None:
    """Say which of waited, each a (server, function), have no worker; nothing of a server that does not say."""
    servers = sorted({server for server, _ in waited})
    for server, rows in admin.ask_all(servers, lambda one: one.status(), report=lambda error: None):
        working = {function for function, _, _, workers in rows if workers}
        for function in sorted(function for where, function in waited if where == server and function not in working):
            warn(f"{function.decode('utf-8', 'replace')}: waiting: no worker for it on {server}")
