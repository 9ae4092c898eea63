"""The audit trail in the quarantine file: who did what to which job, written in the transaction that does it."""

from __future__ import annotations

import os
import time
from functools import lru_cache

from libgm.quarantine import jobs
from libgm.quarantine.file import Store, text
from libgm.quarantine.selection import paged, where
from libgm.units import age

OF_JOB = ("job", "revision", "key", "function", "unique_", "reason", "error", "fingerprint")
AUDIT = ("id", "time", "action", "user", "host", *OF_JOB, "edited", "why")
DONE = {"requeue": "requeued", "drop": "dropped", "bury": "buried", "drain": "drained", "at": "scheduled", "pause": "paused",
        "resume": "resumed"}   # by action


def columns(store: Store) -> tuple:
    """The columns of an entry but its id; a file that no newer gearmang has migrated lacks some."""
    return AUDIT[1:] if store.version >= 3 else AUDIT[1:-1] if store.version == 2 else AUDIT[1:-2]


def entries(store: Store, selectors: dict, after: int = 0, limit: int | None = None, newest: bool = False):
    """What was done, by AUDIT, in its order; with newest, the other way round."""
    there = columns(store)
    names = tuple(name if name == "id" or name in there else f"NULL AS {name}" for name in AUDIT)
    return paged(store, "audit", names, where(store, selectors, "audit"), after, limit, newest)


def last(store: Store, ident: int) -> str | None:
    """What was done last with a job id, None where nothing was."""
    found = store.rows("SELECT action, time, user FROM audit WHERE job = ? ORDER BY id DESC LIMIT 1", (ident,))
    if not found:
        return None
    action, at, user = found[0]
    return f"{DONE.get(action, action)} {age(max(0, time.time() - at))} ago by {user}"


def write_down(store: Store, action: str, rows: list[dict], why: str | None = None) -> None:
    """Enter what was done to jobs. rows: by jobs.COLUMNS, and `edited`."""
    names, who = columns(store), {**by(action), "why": why}
    store.execute_many(f"INSERT INTO audit ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})",
                       [{"edited": False, **found, **who, "job": found["id"]} for found in rows])


def write_down_where(store: Store, action: str, where: str, values: dict, edited: bool = False, why: str | None = None) -> None:
    """write_down() of all rows that a condition selects, which need not be read for it; values: of its names."""
    names = columns(store)
    chosen = ["id" if name == "job" else name if name in OF_JOB else ":" + name for name in names]
    store.execute(f"INSERT INTO audit ({', '.join(names)}) SELECT {', '.join(chosen)} FROM job WHERE {where}",
                  {**values, **by(action), "edited": edited, "why": why})


def write_down_function(store: Store, action: str, function: bytes, why: str | None) -> None:
    """Enter what was done to a function (or glob): it is paused, or resumed."""
    values = {**by(action), "function": text(function), "why": why}
    store.execute(f"INSERT INTO audit ({', '.join(values)}) VALUES ({', '.join(':' + name for name in values)})", values)


def by(action: str) -> dict:
    """When it is done, what, who does it, and where."""
    return {"time": int(time.time()), "action": action, "user": user(), "host": os.uname().nodename}


@lru_cache(None)
def user() -> str:
    """Who acts: the login name, with the one behind sudo in front."""
    import pwd
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER")
    return f"{behind}/{name}" if behind and behind != name else name


def absent(store: Store, ident: int) -> str:
    """What to say of an id that has no row."""
    if not jobs.ever_was(store, ident):
        return f"{ident}: no such job"
    done = last(store, ident)
    return f"{ident}: " + (f"{done}: see gm-history {ident}" if done else "no longer here: it was delayed, and was tried again")
