"""Jobs done and failed per function and day (UTC), as gm-work's parents count them."""

from __future__ import annotations

import time

from libgm.quarantine.file import Store, raw, text


def add(store: Store, function: bytes, done: int, failed: int, now: float) -> None:
    """Count runs of a function that ended at about `now` (epoch seconds), in a transaction of the caller's."""
    store.execute("INSERT INTO tally (function, day, done, failed) VALUES (?,?,?,?) ON CONFLICT (function, day) DO UPDATE "
                  "SET done = done + excluded.done, failed = failed + excluded.failed",
                  (text(function), time.strftime("%Y-%m-%d", time.gmtime(now)), done, failed))


def days(store: Store) -> list[tuple[bytes, str, int, int]]:
    """(function, day, done, failed) of each function and day, the oldest day first."""
    return [(raw(function), day, done, failed) for function, day, done, failed in store.rows(
        "SELECT function, day, done, failed FROM tally ORDER BY day, function")]


def today(store: Store, now: float) -> list[tuple[bytes, int, int]]:
    """(function, done, failed) of each function on the day (UTC) of `now` (epoch seconds)."""
    return [(raw(function), done, failed) for function, done, failed in store.rows(
        "SELECT function, done, failed FROM tally WHERE day = ?", (time.strftime("%Y-%m-%d", time.gmtime(now)),))]


def totals(store: Store) -> dict[bytes, tuple[int, int]]:
    """(done, failed) of each function on all days."""
    return {raw(function): (done, failed) for function, done, failed in store.rows(
        "SELECT function, sum(done), sum(failed) FROM tally GROUP BY function")}
