"""The brake of each function: failures of different jobs in a row, the outage that they are taken for, the last success.

gm-delivery(7), rule 8. One row per function, shared by all its workers; what it means is decided in worker/brake.py.
"""

from __future__ import annotations

import json

from libgm.quarantine.file import Store, raw, text


class Brake:
    """The row of a function. failed: keys of the jobs that failed in a row; since (epoch seconds) and why: of the outage, None
    while there is none; succeeded: epoch seconds of the last success, or None; next_start: epoch seconds."""

    __slots__ = ("failed", "since", "why", "succeeded", "next_start")

    def __init__(self, failed: str = "[]", since: float | None = None, why: str | None = None,
                 succeeded: float | None = None, next_start: float | None = None):
        self.failed: list[str] = [] if failed == "[]" else json.loads(failed)
        self.since, self.why, self.succeeded, self.next_start = since, why, succeeded, next_start or 0.0


def read(store: Store, function: bytes) -> Brake:
    """The brake of a function; one without any failure where the file has none."""
    found = store.execute("SELECT failed, since, why, succeeded, next_start FROM brake WHERE function = ?",
                          (text(function),)).fetchone()
    return Brake(*found) if found else Brake()


def note_failure(store: Store, function: bytes, failed: list[str], since: float | None, why: str | None) -> None:
    """Write the jobs that failed in a row, and the outage that begins with the last of them, or None; in a transaction of the
    caller's."""
    store.execute("INSERT INTO brake (function, failed, since, why, next_start) VALUES (?1, ?2, ?3, ?4, ?3) "
                  "ON CONFLICT (function) DO UPDATE SET failed = ?2, since = ?3, why = ?4, next_start = ?3",
                  (text(function), json.dumps(failed), since, why))


def note_success(store: Store, function: bytes, now: float) -> None:
    """A job succeeded: there is no row of failures, and no outage; in a transaction of the caller's."""
    store.execute("INSERT INTO brake (function, succeeded) VALUES (?1, ?2) ON CONFLICT (function) DO UPDATE "
                  "SET failed = '[]', since = NULL, why = NULL, succeeded = ?2, next_start = NULL", (text(function), now))


def reserve(store: Store, function: bytes, next_start: float) -> None:
    """No job of the function is started before then (epoch seconds), but by who reserved an earlier time; in a transaction of
    the caller's."""
    store.execute("UPDATE brake SET next_start = ? WHERE function = ?", (next_start, text(function)))


def release(store: Store, function: bytes, now: float, known_bad: bool) -> None:
    """What was held is due; in a transaction of the caller's. known_bad: there was a success, so that jobs which failed before
    it and fail again are to blame themselves."""
    store.execute("UPDATE job SET due = CASE WHEN held IS NULL THEN due ELSE ?1 END, held = NULL, known_bad = known_bad OR ?2 "
                  "WHERE function = ?3 AND state = 'delayed' AND last_failed IS NOT NULL AND claim IS NULL "
                  "AND (?2 OR held IS NOT NULL)",
                  (now, known_bad, text(function)))


def end_brake(store: Store, function: bytes, now: float) -> bool:
    """A person ends the outage of a function: what is held is due, the row of failures begins anew; whether there was one. In a
    transaction of the caller's."""
    ended = store.execute("UPDATE brake SET failed = '[]', since = NULL, why = NULL, next_start = NULL "
                          "WHERE function = ? AND since IS NOT NULL", (text(function),)).rowcount == 1
    if ended:
        release(store, function, now, False)
    return ended


def standing(store: Store) -> dict[bytes, tuple[float, str | None, int]]:
    """(since, why, jobs held) of each function in an outage, by its name; since in epoch seconds."""
    return {raw(function): (since, why, held) for function, since, why, held in store.rows(
        "SELECT function, since, why, (SELECT count(*) FROM job WHERE job.function = brake.function AND held IS NOT NULL) "
        "FROM brake WHERE since IS NOT NULL")}
