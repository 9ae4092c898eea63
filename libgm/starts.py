"""Starts: a row per run, written before a job begins, so that a job that takes its worker down is counted (rules 6, 7)."""

from __future__ import annotations

import time

from .store import Store, text


class Past:
    """What the dead owners of earlier starts of a job tell: how many were lost, hung, released."""

    __slots__ = ("lost", "hung", "released", "owners")

    def __init__(self):
        self.lost = self.hung = self.released = 0
        self.owners: set[int] = set()

    @property
    def attempts(self) -> int:
        """Attempts that never reported."""
        return self.lost + self.hung


def past(store: Store, identity: bytes) -> Past | None:
    """The starts of this very job with no end and a dead owner; None where there are none (the usual case)."""
    found = None
    for process, mark in store.execute("SELECT process, mark FROM start WHERE identity = ?", (identity,)).fetchall():
        if process == store.process or store.lives(process):
            continue
        found = found or Past()
        found.owners.add(process)
        kind = mark or "lost"
        setattr(found, kind, getattr(found, kind) + 1)
    return found


def begin(store: Store, run: int, identity: bytes, function: bytes, unique: bytes, handle: str, server: str,
          attempts: int) -> None:
    """Write the start of this process's run before its job begins."""
    with store.transaction(durable=False):
        store.execute("INSERT INTO start (process, run, identity, function, unique_, handle, server, attempts, started) "
                      "VALUES (?,?,?,?,?,?,?,?,?)",
                      (store.process, run, identity, text(function), text(unique), handle, server, attempts, time.time()))


def end(store: Store, run: int) -> None:
    """The run is over and its worker lives: its own row goes."""
    store.execute("DELETE FROM start WHERE process = ? AND run = ?", (store.process, run))


def forget(store: Store, identity: bytes) -> None:
    """The counts of a job end (done, drop, quarantine, requeue): every dead owner's start of it goes."""
    for process, run in store.execute("SELECT process, run FROM start WHERE identity = ?", (identity,)).fetchall():
        if process == store.process or not store.lives(process):
            store.execute("DELETE FROM start WHERE process = ? AND run = ?", (process, run))


def mark(store: Store, process: int, how: str, run: int | None = None) -> None:
    """Mark the starts of a process as released or hung; the first mark stays."""
    with store.transaction():
        store.execute("UPDATE start SET mark = ? WHERE process = ? AND mark IS NULL" +
                      ("" if run is None else " AND run = ?"), (how, process) + (() if run is None else (run,)))


def marked(store: Store, run: int) -> str | None:
    """The mark on this process's run, which gm-reap may have set meanwhile."""
    found = store.execute("SELECT mark FROM start WHERE process = ? AND run = ?", (store.process, run)).fetchone()
    return found and found[0]


def sweep(store: Store) -> None:
    """Take out the rows of dead processes that own no start and no claim any more."""
    dead = [process for process, in store.execute(
        "SELECT id FROM process WHERE id NOT IN (SELECT process FROM start) "
        "AND id NOT IN (SELECT claim FROM job WHERE claim IS NOT NULL)").fetchall() if not store.lives(process)]
    if dead:
        with store.transaction(durable=False):
            store.db.executemany("DELETE FROM process WHERE id = ?", [(process,) for process in dead])
