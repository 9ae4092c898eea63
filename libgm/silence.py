"""What is said of a wait that may have no end: that nobody works what is waited for."""

from __future__ import annotations

from . import admin
from .cli import warn


def tell(servers: list, functions: set[bytes]) -> None:
    """Say which of the functions have no worker on any of the servers, where one can tell."""
    working: dict[bytes, int] = {}
    answers = admin.ask_all(servers, lambda one: one.status(), report=lambda error: None)
    for _, rows in answers:
        for function, _, _, workers in rows:
            working[function] = working.get(function, 0) + workers
    for function in sorted(functions):
        if answers and not working.get(function):
            warn(f"{function.decode('utf-8', 'replace')}: waiting: no worker for it on " +
                 ", ".join(str(server) for server, _ in answers))
