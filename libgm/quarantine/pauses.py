"""Functions on which no work is done: a row per function or glob. gm-pause(1) is its manual."""

from __future__ import annotations

from libgm import names
from libgm.quarantine import processes
from libgm.quarantine.file import Store, raw, text
from libgm.units import age, iso


class Pause:
    """A pause: glob (bytes) of functions, since and until (epoch seconds; None: until resumed), why, user."""

    __slots__ = ("glob", "since", "until", "why", "user")

    def __init__(self, glob: str | bytes, since: float, until: float | None, why: str | None, user: str | None):
        self.glob, self.since, self.until, self.why, self.user = raw(glob), since, until, why, user

    def covers(self, function: bytes) -> bool:
        return names.matches(function, self.glob)

    def summary(self, now: float) -> str:
        """The pause in a few words, with its age: `paused by root 5m ago, until 2026-11-24T13:42:00Z: new disk`."""
        return ("paused" + (f" by {self.user}" if self.user else "") + f" {age(max(0, now - self.since))} ago" +
                (f", until {iso(self.until)}" if self.until else "") + (f": {self.why}" if self.why else ""))

    def __str__(self) -> str:
        return "paused" + (f" by {self.user}" if self.user else "") + (f": {self.why}" if self.why else "")


def begin(store: Store, glob: bytes, since: float, until: float | None, why: str | None, user: str | None) -> None:
    """Pause what the glob matches, in a transaction of the caller's; a pause of the same glob is replaced."""
    store.execute("INSERT OR REPLACE INTO pause (function, since, until, why, user) VALUES (?,?,?,?,?)",
                  (text(glob), since, until, why, user))


def end(store: Store, glob: bytes) -> bool:
    """End the pause of that very glob, in a transaction of the caller's; whether there was one."""
    return store.execute("DELETE FROM pause WHERE function = ?", (text(glob),)).rowcount == 1


def standing(store: Store, now: float) -> list[Pause]:
    """The pauses that are not over at `now` (epoch seconds)."""
    return [Pause(*row) for row in store.rows("SELECT function, since, until, why, user FROM pause "
                                              "WHERE until IS NULL OR until > ? ORDER BY since", (now,))]


def delayed(store: Store, now: float) -> list[str | bytes]:
    """The functions under a pause that have delayed jobs, as the file holds their names."""
    found = standing(store, now)
    return [function for function, in store.rows("SELECT DISTINCT function FROM job WHERE state = 'delayed'")
            if any(pause.covers(raw(function)) for pause in found)] if found else []


def find(store: Store, function: bytes, now: float) -> Pause | None:
    """The pause that a function is under, None where it is under none."""
    return next((pause for pause in standing(store, now) if pause.covers(function)), None)


def workers(store: Store) -> list[bytes]:
    """The functions of the living gm-work processes on the file, one entry for each of them."""
    return [raw(function) for ident, function in _gm_work(store, "function") if processes.lives(store, ident)]


def worker_pids(store: Store) -> list[int]:
    """The pids of the living gm-work processes on the file, as each sees its own."""
    return [pid for ident, pid in _gm_work(store, "pid") if processes.lives(store, ident)]


def _gm_work(store: Store, column: str) -> list[tuple]:
    return store.rows(f"SELECT id, {column} FROM process WHERE tool = 'gm-work' AND {column} IS NOT NULL")
