"""Default places: the quarantine file, the state folder, the servers."""

from __future__ import annotations

import os

from libgm.errors import Unavailable, Usage

SYSTEM = "/var/lib/gearmang"   # shared by the members of GROUP
GROUP = "gearmang"


def quarantine(args: dict) -> str:
    """The path of the quarantine file: --quarantine, else $GM_QUARANTINE, else in the state folder.

    Raises Usage and Unavailable as state_folder() does.
    """
    given = args.get("--quarantine") or os.environ.get("GM_QUARANTINE")
    return given or os.path.join(state_folder(), "quarantine.db")


def is_default(path: str) -> bool:
    """Whether a path is that of the quarantine file that no option and no variable names."""
    try:
        return path == os.path.join(state_folder(), "quarantine.db")
    except (Unavailable, Usage):
        return False


def state_folder(option: str = "--quarantine", file: str = "quarantine.db") -> str:
    """The folder of a file that no option names: SYSTEM where that exists, else the user's own, which may not exist yet.

    option: what to use instead, for the messages. Raises Unavailable if the user may neither write to SYSTEM nor read
    `file` in it, so that nobody works beside the machine's file without knowing it. Raises Usage if the user has no home.
    """
    if os.path.isdir(SYSTEM):
        if not (may(SYSTEM, os.W_OK | os.X_OK) or may(os.path.join(SYSTEM, file), os.R_OK)):
            raise Unavailable(f"{SYSTEM}: permission denied: add yourself to the group {GROUP}, or use {option}")
        return SYSTEM
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):   # its specification says to ignore it then
        state = os.path.join(home(), ".local/state")
    if not os.path.isabs(state):
        raise Usage(f"no home directory for {file}: use {option}")
    return os.path.join(state, "gearmang")


def home() -> str:
    """The user's home directory, "" if the system knows none."""
    found = os.environ.get("HOME")
    if found:
        return found
    import pwd
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def may(path: str, how: int) -> bool:
    """Whether this process may use a path, by its effective ids."""
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


def servers(args: dict) -> str:
    """The list of servers: --server, else $GM_SERVERS, else the default."""
    return args.get("--server") or os.environ.get("GM_SERVERS") or "127.0.0.1:4730"
