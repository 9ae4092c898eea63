"""What the quarantine file says of functions, workers and the jobs in their hands, for gm-status and gm-check."""

from __future__ import annotations

import collections

from libgm.quarantine import outages, pauses, processes, starts
from libgm.quarantine.file import Store, raw
from libgm.quarantine.jobs import kept

FIELDS = {"dead": 0, "delayed": 0, "held": 0, "overdue": 0, "oldest_dead": None, "oldest_start": None, "brake": None}
STATES = ("SELECT function, state, jobs, (SELECT min(last_failed) FROM job AS j WHERE j.function = kept.function "
          "AND j.state = 'dead') FROM {} WHERE jobs > 0")
OVERDUE = "SELECT function, count(*) FROM job WHERE state = 'delayed' AND due < ? GROUP BY +function"   # by the index on due
ENTERED = "SELECT id, tool, host, namespace, pid, pid_start, started, function FROM process ORDER BY id"
BEGUN = ("SELECT process, run, function, unique_, handle, server, started, attempts, mark FROM start WHERE process <> ? "
         "ORDER BY process, run")
KNOWN = "SELECT function FROM {} UNION SELECT function FROM start UNION SELECT function FROM process WHERE function NOT NULL"
DIED = ("SELECT function, (SELECT count(*) FROM job AS j WHERE j.function = kept.function AND j.state = 'dead' "
        "AND last_failed > ?) FROM {} WHERE state = 'dead' AND jobs > 0")


def functions(store: Store, now: float, late: float) -> dict[bytes, dict]:
    """FIELDS of each function that the file knows.

    oldest_dead, oldest_start: epoch seconds, or None. overdue: jobs that should have been released `late` seconds ago. brake:
    (since, why) of an outage, or None. Memory and time grow with the functions, not with their jobs.
    """
    found: dict[bytes, dict] = {}

    def of(function: str | bytes) -> dict:
        return found.setdefault(raw(function), dict(FIELDS))
    for function, state, count, oldest in store.rows(STATES.format(kept(store))):
        of(function)[state] = count
        if state == "dead":
            of(function)["oldest_dead"] = oldest
    for function, count in store.rows(OVERDUE, (now - late,)):
        of(function)["overdue"] = count
    alive: dict[int, bool] = {}
    for start in starts_entered(store):
        if start.process not in alive:
            alive[start.process] = processes.lives(store, start.process)
        since = starts.since(store, start.process, start.run, start.started) if alive[start.process] else None
        if since is not None:   # a dead owner's start only counts, until the job is seen again
            before = of(start.function)["oldest_start"]
            of(start.function)["oldest_start"] = since if before is None else min(before, since)
    if store.version >= 3:
        for name, (since, why, held) in outages.standing(store).items():
            of(name).update(brake=(since, why), held=held)
    return found


def pauses_now(store: Store, now: float) -> list[pauses.Pause]:
    """The pauses that stand now."""
    return pauses.standing(store, now) if store.version >= 3 else []


def known(store: Store) -> set[bytes]:
    """The functions that the file knows from jobs, now or before, and from processes and pauses."""
    more = " UNION SELECT function FROM tally UNION SELECT function FROM pause" if store.version >= 3 else ""
    if store.version < 4:   # later files keep the functions of jobs that they had
        more += " UNION SELECT function FROM audit WHERE function NOT NULL"
    return {raw(function) for function, in store.rows(KNOWN.format(kept(store)) + more)}


def died_since(store: Store, since: float) -> dict[bytes, int]:
    """How many dead jobs of each function died after `since` (epoch seconds)."""
    return {raw(function): count for function, count in store.rows(DIED.format(kept(store)), (since,)) if count}


Entered = collections.namedtuple("Entered", "ident tool host namespace pid pid_start started function")
Begun = collections.namedtuple("Begun", "process run function unique handle server started attempts mark")


IDLE = Begun(*[None] * len(Begun._fields))   # of a process that is on no job


def workers(store: Store) -> list[tuple[Entered, bool, float | None, Begun]]:
    """Each process in the file, whether it lives, since when it is on a job (epoch seconds, or None), and that job's start."""
    begun: dict[int, tuple] = {}
    for start in starts_entered(store):
        since = starts.since(store, start.process, start.run, start.started)
        if since is not None:   # None: a job that is ready, not begun
            begun[start.process] = since, start
    return [(entered, processes.lives(store, entered.ident), *begun.get(entered.ident, (None, IDLE)))
            for entered in processes_entered(store)]


def processes_entered(store: Store) -> list[Entered]:
    """The processes in the file, whether they live or not; function: bytes, or None."""
    return [Entered._make((*row[:-1], None if row[-1] is None else raw(row[-1]))) for row in store.rows(ENTERED)]


def starts_entered(store: Store) -> list[Begun]:
    """The starts in the file that a process owns."""
    return [Begun(process, run, raw(function), raw(unique), *rest)
            for process, run, function, unique, *rest in store.rows(BEGUN, (starts.NOBODY,))]
