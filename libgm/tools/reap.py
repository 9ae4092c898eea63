"""gm-reap: what overstays, and its end."""

from __future__ import annotations

import os
import time

from libgm import job
from libgm.errors import Error, Unavailable
from libgm.quarantine import overview, processes, starts
from libgm.quarantine.file import Store
from libgm.shell.messages import warn
from libgm.units import iso
from libgm.worker import orphans

MARK_WAIT = 2.0   # seconds that a worker which is stopped inside a write may keep us from marking its starts
COLUMNS = [("kind", lambda entry: entry["kind"]), ("worker", lambda entry: entry["worker"]),
           ("host", lambda entry: entry["host"] or ""), ("pid", lambda entry: entry["pid"] or ""),
           ("since", lambda entry: entry["since"] or ""), ("job", lambda entry: entry.get("handle") or ""),
           ("action", lambda entry: entry["action"] or "")]


class Owner:
    """A process in the file that owns starts.

    row: of overview.processes_entered(), or None where it is gone. .here: on this host, in this pid namespace. .holder: the pid
    of whoever holds its lock, by the kernel: what the file says may have been written by anybody. .unlocked: it runs by its pid
    and start time, but without its lock, whose file was replaced.
    """

    def __init__(self, store: Store, ident: int, row):
        self.ident, self.row = ident, row
        self.host = row and row.host
        self.here = row is not None and (row.host, row.namespace) == (os.uname().nodename, processes.namespace())
        self.holder = processes.holder(store, ident)
        self.unlocked = self.holder is None and self.here and orphans.running(row.pid, row.pid_start or 0)
        self.alive = self.holder is not None or self.unlocked

    @property
    def pid(self) -> int | None:
        return self.holder if self.here and self.holder else self.row and self.row.pid

    def targets(self) -> list[tuple[int, int]]:
        """(pid, start time) of the worker; none where it is elsewhere, or dead."""
        if not (self.here and self.holder):
            return []
        started = processes.start_time(self.holder)
        return [] if started is None else [(self.holder, started)]


class Entry(dict):
    """What gm-reap prints of something that overstays. .targets: (pid, start time) of what to end; .run: of a job or a start."""

    def __init__(self, kind: str, owner: Owner, pid: int | None, function: bytes | None, began: float | None, now: float):
        super().__init__(kind=kind, worker=owner.ident, host=owner.host, pid=pid)
        job.put(self, "function", function)
        self.update(since=iso(began), age=None if began is None else max(0, round(now - began, 1)), here=owner.here, action=None)
        self.owner = owner
        self.run: int | None = None
        self.targets: list[tuple[int, int]] = []


def overstaying(store: Store, older: float | None, job_older: float | None) -> list[Entry]:
    """What overstays: workers older than `older`, jobs that run longer than `job_older` (seconds, None for neither), starts
    whose owner is dead (start), and the processes that still run of those (orphan).

    Raises Unavailable, also where nothing tells who lives.
    """
    now = time.time()
    entered = {row.ident: row for row in overview.processes_entered(store)}
    if entered and not os.path.exists(f"{store.path}-alive"):
        raise Unavailable(f"{store.path}-alive: no such file, so nobody can tell which of {len(entered)} processes live: "
                          "restart every gm-work and gm-collect on this file")
    begun: dict[int, list] = {}
    for start in overview.starts_entered(store):
        begun.setdefault(start.process, []).append(start)
    owners = {ident: Owner(store, ident, entered.get(ident)) for ident in {**entered, **begun}}
    under_way: dict[tuple[int, int], list[orphans.JobProcess]] = {}
    for found in orphans.job_processes(store):
        if found.run[0] in owners and found.belongs_to(owners[found.run[0]].holder):
            under_way.setdefault(found.run, []).append(found)
    entries = []
    for ident, row in entered.items():
        if older is not None and row.tool == "gm-work" and now - row.started > older and owners[ident].alive:
            entry = Entry("worker", owners[ident], owners[ident].pid, row.function, row.started, now)
            runs = [(ident, starts.PIPE), *((ident, start.run) for start in begun.get(ident, ()))]
            if owners[ident].here:
                entry.targets = owners[ident].targets() + [found[:2] for run in runs for found in under_way.get(run, ())]
            entries.append(entry)
    for ident, of_owner in begun.items():
        for start in of_owner:
            processes_of = under_way.get((ident, start.run)) or under_way.get((ident, starts.PIPE), [])
            entries += overstaying_start(store, owners[ident], start, processes_of, job_older, now)
    return entries


def overstaying_start(store: Store, owner: Owner, start, under_way: list, job_older: float | None, now: float):
    """Yield the entries of a start, with the processes of its job that are under way."""
    began = starts.since(store, owner.ident, start.run, start.started)
    if began is None:
        return
    living = owner.alive
    if living and (job_older is None or now - began <= job_older):
        return
    entry = Entry("job" if living else "start", owner, None, start.function, began, now)
    job.put(entry, "unique", start.unique)
    entry.update(handle=start.handle, attempts=start.attempts)
    entry.run = start.run
    if living and owner.here:
        entry.targets = [found[:2] for found in under_way]
    yield entry
    for found in () if living else under_way:
        orphan = Entry("orphan", owner, found.pid, start.function, began, now)
        orphan.update(entry, kind="orphan", pid=found.pid, here=True)
        orphan.targets = [found[:2]]
        yield orphan


def reap(store: Store, entry: Entry, how: str, grace: float) -> str | None:
    """End what an entry names. how: hung counts as an attempt, released does not. Return what was done, None for nothing.

    It is ended also where the file cannot be written; that is reported, and its start marked afterwards. Raises Error where
    something is left.
    """
    kind, owner, marked = entry["kind"], entry.owner, False
    if owner.unlocked:
        raise Error(f"{kind} of worker {owner.ident}: process {owner.pid} runs, but holds no lock in {store.path}-alive, "
                    "which was replaced: restart every gm-work on this file")
    if kind == "start":   # nothing runs; it counts as it is, but for being forgiven
        if how == "released" and entry.run is not None:
            starts.give_back(store, owner.ident, entry.run)
            return how
        return None
    if not entry.targets:
        return None
    if kind != "orphan":
        try:
            with store.patience(MARK_WAIT):
                starts.mark(store, owner.ident, how, entry.run)
            marked = True
        except Unavailable as error:
            warn(f"{error}: ending it all the same")
    left = orphans.end(entry.targets, grace)
    if kind != "orphan" and not marked:
        starts.mark(store, owner.ident, how, entry.run)
    if left:
        raise Error(f"{kind} of worker {owner.ident}: cannot end process {left[0][0]}: not permitted, or stuck in the kernel")
    return "killed" if how == "hung" else "released"
