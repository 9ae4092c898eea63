"""Starts: a row per run, written before a job begins, so that a job that takes its worker down is counted.

gm-delivery(7), rules 5 to 7. A worker writes the rows of the jobs in its hand at once, and says in FILE-alive which it is on
(note), for the price of a system call. When it dies, that job counts an attempt: those before it were done, those behind it
had not begun. Where FILE-alive tells nothing, because its slot was taken by another process since, every row counts. The
command may be a job or two ahead of what its worker has heard, so a job that had a row is run alone the next time: if it was
the killer, that time it is the one that counts.

A settled start is one whose failure is in the file, and whose answer may not have been sent.
"""

from __future__ import annotations

import time

from libgm import wire
from libgm.errors import Unavailable, reason
from libgm.quarantine import processes
from libgm.quarantine.file import Store, text

NOBODY = 0      # a process that never lives: it has the starts that a living worker gave back
PIPE = 0        # for a run: the command of a worker in pipe mode, which is on any of them
MANY = 64       # values of one statement
DYING = 0.25    # seconds: the kernel closes a dying worker's connection before or after it drops its lock
KEPT = 30 * 86400   # seconds that a settled start of a dead owner is kept, for a job that its server still hands out


class Past:
    """What the dead owners of earlier starts of a job tell.

    lost, hung, released: how many starts ended so, settled ones not counted. runs: (process, run) of all of them. key: the
    job's key by the newest start that is not settled, or None. settled: whether there is a settled one. next: the wire
    unique that one was about to send, or None.
    """

    __slots__ = ("lost", "hung", "released", "runs", "key", "settled", "next")

    def __init__(self) -> None:
        self.lost = self.hung = self.released = 0
        self.runs: set[tuple[int, int]] = set()
        self.key: int | None = None
        self.settled = False
        self.next: bytes | None = None

    @property
    def attempts(self) -> int:
        """Attempts that never reported."""
        return self.lost + self.hung


# ---- before a run


def past(store: Store, identity: bytes) -> Past | None:
    """What the starts of this very job with a dead owner tell; None where there are none (the usual case).

    The server may hand the job on while its owner is still dying: one that lives is given a moment.
    """
    rows = store.execute("SELECT process, run, started, mark, key, settled, next FROM start "
                         "WHERE identity = ? AND process != ? ORDER BY started", (identity, store.process)).fetchall()
    if not rows:
        return None
    until = time.monotonic() + DYING
    while any(processes.lives(store, row[0]) for row in rows) and time.monotonic() < until:
        time.sleep(0.005)
    found = Past()
    for process, run, started, mark, key, settled, next_ in rows:
        if processes.lives(store, process):
            continue
        found.runs |= {(process, run), (process, PIPE)}
        if settled:
            found.settled = True
            continue
        found.key = found.key if key is None else wire.key_value(key)
        found.next = found.next if next_ is None else next_
        if since(store, process, run, started) is not None:
            how = mark or "lost"
            setattr(found, how, getattr(found, how) + 1)
    return found if found.runs else None


def since(store: Store, process: int, run: int, started: float) -> float | None:
    """When a process began the job of a start that it wrote at `started` (epoch seconds); None where it had not begun it,
    being on another one, also when it died."""
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


def begin(store: Store, *attempts, settled: bool = False) -> None:
    """Write the starts of this process's next runs, before their jobs begin, within a transaction of the caller's. settled: as
    of settle().

    Each attempt has .run, .identity, .assigned.function, .unique, .handle, .server, .before and .header, whose key is made
    where it is 0.
    """
    now, process, rows = time.time(), store.process, []
    for attempt in attempts:
        header = attempt.header
        header.key = header.key or wire.new_key()
        rows.append((process, attempt.run, attempt.identity, text(attempt.assigned.function), text(attempt.unique),
                     attempt.handle, attempt.server, attempt.before + 1, now, wire.key_text(header.key), settled))
    store.execute_many("INSERT OR REPLACE INTO start (process, run, identity, function, unique_, handle, server, attempts, "
                       "started, key, settled) VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows)   # restored files have old ones


def note(store: Store, run: int, alone: bool = False) -> None:
    """Write which of its runs this process is on now, 0 for none. alone: on disk at once, as the job might be a killer.

    Raises Unavailable.
    """
    try:
        processes.note(store.path, store.process, run, time.time(), sync=alone)
    except OSError as error:
        raise Unavailable(f"{store.path}-alive: cannot write: {reason(error)}") from None


def careful(store: Store) -> bool:
    """Whether a process of another boot never parted and made nobody careful yet: a job may have taken the machine down."""
    boot = processes.boot()
    return boot is not None and store.execute("SELECT 1 FROM process WHERE boot IS NOT NULL AND boot != ? AND NOT seen LIMIT 1",
                                              (boot,)).fetchone() is not None


def mark_seen(store: Store) -> None:
    """The processes of other boots have made workers careful for long enough."""
    with store.transaction(durable=False):
        store.execute("UPDATE process SET seen = 1 WHERE boot IS NOT NULL AND boot != ?", (processes.boot(),))


# ---- after it


def settle(store: Store, *runs: int) -> None:
    """The failures of runs are written, in a transaction of the caller's that writes them; their answers are not sent yet."""
    store.execute_many("UPDATE start SET settled = 1 WHERE process = ? AND run = ?", [(store.process, run) for run in runs])


def will_send(store: Store, run: int, unique: bytes) -> None:
    """Record durably that a run's job is about to be sent again, under that wire unique, and then answered."""
    with store.transaction():
        store.execute("UPDATE start SET next = ? WHERE process = ? AND run = ?", (unique, store.process, run))


def end(store: Store, *runs: int) -> None:
    """The runs are over and their worker lives: its own rows go."""
    store.execute_many("DELETE FROM start WHERE process = ? AND run = ?", [(store.process, run) for run in runs])


def forget(store: Store, *identities: bytes) -> None:
    """The counts of jobs end (done, drop, quarantine, requeue): every dead owner's start of them goes, settled or not, and
    our own that was released."""
    for at in range(0, len(identities), MANY):
        some = identities[at:at + MANY]
        for process, run, mark in store.execute("SELECT process, run, mark FROM start WHERE identity IN "
                                                f"({', '.join('?' * len(some))})", some).fetchall():
            if mark if process == store.process else not processes.lives(store, process):
                store.execute("DELETE FROM start WHERE process = ? AND run = ?", (process, run))


# ---- released, hung, left behind


def give_back(store: Store, process: int, run: int) -> None:
    """Count a run as released, though its worker lives on or had not said so: its row becomes NOBODY's."""
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
    """Remove old settled starts of dead processes, and the rows of dead processes that own no start and no claim any more.

    One of another boot that is not seen yet stays: careful() goes by it.
    """
    settled = [process for process, in store.execute("SELECT DISTINCT process FROM start WHERE settled AND started < ?",
                                                     (time.time() - KEPT,)).fetchall()]
    gone = [process for process in settled if not processes.lives(store, process)]
    dead = [process for process, in store.execute(
        "SELECT id FROM process WHERE (seen OR boot IS NULL OR boot IS ?) AND id NOT IN (SELECT process FROM start) "
        "AND id NOT IN (SELECT claim FROM job WHERE claim IS NOT NULL)",
        (processes.boot(),)).fetchall() if not processes.lives(store, process)]
    if gone or dead:
        with store.transaction(durable=False):
            store.execute_many("DELETE FROM start WHERE process = ? AND settled AND started < ?",
                               [(process, time.time() - KEPT) for process in gone])
            store.execute_many("DELETE FROM process WHERE id = ?", [(process,) for process in dead])
