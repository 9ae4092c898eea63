"""Default places: the quarantine file and the servers."""

from __future__ import annotations

import os


def quarantine(args: dict) -> str:
    """The path of the quarantine file: --quarantine, else $GM_QUARANTINE, else the default place."""
    given = args.get("--quarantine") or os.environ.get("GM_QUARANTINE")
    if given:
        return given
    if os.path.isdir("/var/lib/gearmang"):
        return "/var/lib/gearmang/quarantine.db"
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "gearmang", "quarantine.db")


def servers(args: dict) -> str:
    """The list of servers: --server, else $GM_SERVERS, else the default."""
    return args.get("--server") or os.environ.get("GM_SERVERS") or "127.0.0.1:4730"
