"""Functions on which no work is done: a row per function or glob. gm-pause(1) is its manual."""

from __future__ import annotations

from libgm.quarantine.file import Store, raw, text


class Pause:
    """A pause: glob (bytes) of functions, since and until (epoch seconds; None: until resumed), why, user."""

    __slots__ = ("glob", "since", "until", "why", "user")

    def __init__(self, glob: str | bytes, since: float, until: float | None, why: str | None, user: str | None):
        self.glob, self.since, self.until, self.why, self.user = raw(glob), since, until, why, user

    def covers(self, function: bytes) -> bool:
        from fnmatch import fnmatchcase
        return fnmatchcase(function.decode("utf-8", "surrogateescape"), self.glob.decode("utf-8", "surrogateescape"))

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
