"""Starts: a row per run, written before a job begins, so that a job that takes its worker down is counted (rules 6, 7).

A worker in pipe mode writes the rows of several jobs at once, before its command is given the first of them, and then
says in the file of locks which it is on (alive.note), for the price of a system call. When it dies, that job counts an
attempt: those before it were done, those behind it not begun. Where the file tells nothing (no pipe mode, or its slot
was taken by another since), every row counts. The command may be a job or two ahead of what its worker has heard, so
whatever had a row is run alone the next time, one row and nothing ahead of it: if it was the killer after all, that
time it is the one that counts.
"""

from __future__ import annotations

import time

from libgm.errors import Unavailable, reason
from libgm.quarantine import processes
from libgm.quarantine.file import Store, text

NOBODY = 0      # a process that never lives: it has the starts that a living worker gave back
PIPE = 0        # for a run: the command of a worker in pipe mode, which is on any of them
DYING = 0.25    # seconds: the kernel closes a dying worker's connection before or after it drops its lock


class Past:
    """What the dead owners of earlier starts of a job tell: how many were lost, hung, released; runs: (process, run)."""

    __slots__ = ("lost", "hung", "released", "runs")

    def __init__(self):
        self.lost = self.hung = self.released = 0
        self.runs: set[tuple[int, int]] = set()

    @property
    def attempts(self) -> int:
        """Attempts that never reported."""
        return self.lost + self.hung


def past(store: Store, identity: bytes) -> Past | None:
    """The starts of this very job with no end and a dead owner; None where there are none (the usual case).

    The server may hand the job on while its owner is still dying: one that lives is given a moment.
    """
    rows = store.execute("SELECT process, run, mark FROM start WHERE identity = ?", (identity,)).fetchall()
    rows = [row for row in rows if row[0] != store.process]
    if not rows:
        return None
    until = time.monotonic() + DYING
    while any(store.lives(row[0]) for row in rows) and time.monotonic() < until:
        time.sleep(0.005)
    found = Past()
    for process, run, mark in rows:
        if store.lives(process):
            continue
        found.runs |= {(process, run), (process, PIPE)}
        if since(store, process, run, 0.0) is not None:
            kind = mark or "lost"
            setattr(found, kind, getattr(found, kind) + 1)
    return found if found.runs else None


def since(store: Store, process: int, run: int, started: float) -> float | None:
    """When a process began the job of a start that it wrote at `started` (epoch seconds); None where it has only made it
    ready, being on another one, also when it died."""
    noted = None if process == NOBODY else processes.noted(store.path, process)
    if noted is None:
        return started
    return noted[1] if noted[0] == run else None


def suspects(store: Store, runs: range) -> list[int]:
    """Those of this process's runs whose job has another start: past() tells what that means."""
    found = store.execute("SELECT DISTINCT mine.run FROM start mine JOIN start other "
                          "ON other.identity = mine.identity AND other.process != mine.process "
                          "WHERE mine.process = ? AND mine.run BETWEEN ? AND ?", (store.process, runs[0], runs[-1]))
    return [run for run, in found.fetchall()]


def begin(store: Store, *attempts) -> None:
    """Write the starts of this process's next runs, before their jobs begin, within a transaction of the caller's.

    attempts: of fate.Attempt.
    """
    now, process = time.time(), store.process
    store.execute_many(
        "INSERT INTO start (process, run, identity, function, unique_, handle, server, attempts, started) "
        "VALUES (?,?,?,?,?,?,?,?,?)",
        [(process, attempt.run, attempt.identity, text(attempt.assigned.function), text(attempt.unique), attempt.handle,
          attempt.server, attempt.before + 1, now) for attempt in attempts])


def note(store: Store, run: int, alone: bool = False) -> None:
    """Say which of its runs this process is on now, 0 for none; alone: on disk at once, as a killer might be.

    Raises Unavailable.
    """
    try:
        processes.note(store.path, store.process, run, time.time(), sync=alone)
    except OSError as error:
        raise Unavailable(f"{store.path}-alive: cannot write: {reason(error)}") from None


def end(store: Store, *runs: int) -> None:
    """The runs are over and their worker lives: its own rows go."""
    store.execute_many("DELETE FROM start WHERE process = ? AND run = ?", [(store.process, run) for run in runs])


def forget(store: Store, *identities: bytes) -> None:
    """The counts of jobs end (done, drop, quarantine, requeue): every dead owner's start of them goes, and our own
    that was released."""
    for identity in identities:
        for process, run, mark in store.execute("SELECT process, run, mark FROM start WHERE identity = ?",
                                                (identity,)).fetchall():
            if mark if process == store.process else not store.lives(process):
                store.execute("DELETE FROM start WHERE process = ? AND run = ?", (process, run))


def give_back(store: Store, process: int, run: int) -> None:
    """The run was a release, though its worker lives on or had not said so: its row is nobody's, and counts from now on."""
    with store.transaction(durable=False):
        store.execute("UPDATE start SET process = ?, mark = 'released', run = "
                      "(SELECT coalesce(max(run), 0) + 1 FROM start WHERE process = ?) WHERE process = ? AND run = ?",
                      (NOBODY, NOBODY, process, run))


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
