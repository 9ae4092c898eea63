"""Processes of jobs whose worker is dead or hung: found by what their environment says, ended by group."""

from __future__ import annotations

import os
import signal
import time

from . import alive, job, starts
from .errors import Error, Unavailable
from .store import Store, raw
from .units import iso

MARK_WAIT = 2.0   # seconds that a worker which is stopped inside a write may keep us from marking its starts


class Processes(list):
    """(pid, start time, (process id of its worker in the file, run)) of each process that runs a job for the file of store.

    By $GM_RUN (FILE.WORKER.RUN) in /proc/PID/environ: those of other users cannot be read.
    """

    def __init__(self, store: Store):
        mark = b"\0GM_RUN=%s." % store.tag.encode()
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                with open(f"/proc/{name}/environ", "rb") as environ:
                    run = (b"\0" + environ.read()).partition(mark)[2].partition(b"\0")[0].split(b".")
            except OSError:
                continue
            started = alive.start_time(name)
            if len(run) == 2 and run[0].isdigit() and run[1].isdigit() and started is not None:
                self.append((int(name), started, (int(run[0]), int(run[1]))))


def jobs_of(worker: int) -> list[tuple[int, int]]:
    """(pid, start time) of the children of a worker's process: its jobs."""
    try:
        with open(f"/proc/{worker}/task/{worker}/children", encoding="ascii") as children:
            return [(int(pid), alive.start_time(pid) or 0) for pid in children.read().split()]
    except OSError:
        return []


def end(processes: list[tuple[int, int]], grace: float) -> list[tuple[int, int]]:
    """End processes, each a (pid, start time), with their groups: TERM, and KILL after grace seconds; until they are gone.

    Returns those that are not ours to end, or that nothing ends.
    """
    left = [each for each in processes if running(*each)]
    for sig, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        ours = [each for each in left if send(*each, sig)]
        until = time.monotonic() + patience
        while any(running(*each) for each in ours) and time.monotonic() < until:
            time.sleep(0.01)
        left = [each for each in left if running(*each)]
    return left


def send(pid: int, started: int, sig: int) -> bool:
    """A signal to a process and, where it leads one, to its group; False where that is not allowed."""
    try:
        if alive.start_time(pid) != started:   # no reused pid is hit
            return True
        kill = os.killpg if os.getpgid(pid) == pid else os.kill
        kill(pid, sig)
        if sig == signal.SIGTERM:
            kill(pid, signal.SIGCONT)          # so that a stopped one can act on it
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def running(pid: int, started: int) -> bool:
    """Whether the process with that pid and start time runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        return int(fields[19]) == started and fields[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def end_orphans(store: Store, runs: set[tuple[int, int]], grace: float = 1.0) -> None:
    """End what still runs of runs whose worker is dead, before the same job is started again."""
    end([(pid, started) for pid, started, run in Processes(store) if run in runs], grace)


def overstaying(store: Store, older: float | None, job_older: float | None) -> list[dict]:
    """What overstays, as dicts: workers older than `older`, jobs running longer than `job_older` (seconds; None: not
    asked for), starts whose owner is dead (start), what still runs of those (orphan).

    Each holds `kind`, what gm-reap prints of it, and under `targets` the (pid, start time) of what to end.
    """
    now, here = time.time(), (os.uname().nodename, alive.namespace())
    under_way: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for pid, started, run in Processes(store):
        under_way.setdefault(run, []).append((pid, started))
    owners = {ident: values for ident, *values in store.execute(
        "SELECT id, tool, host, namespace, pid, pid_start, started, function FROM process ORDER BY id").fetchall()}
    starts_of: dict[int, list] = {}
    for start in store.execute("SELECT process, run, function, unique_, handle, started, attempts FROM start "
                               "WHERE process <> ? ORDER BY process, run", (starts.NOBODY,)).fetchall():
        starts_of.setdefault(start[0], []).append(start)
    found = []
    for ident, (tool, host, namespace, pid, pid_start, began, function) in owners.items():
        if older is not None and tool == "gm-work" and now - began > older and store.lives(ident):
            ours = (host, namespace) == here
            entry = described("worker", ident, host, pid, function, began, now, ours)
            runs = [(ident, starts.PIPE), *(start[:2] for start in starts_of.get(ident, ()))]
            jobs = [target for run in runs for target in under_way.get(run, ())]
            entry["targets"] = [(pid, pid_start), *jobs] if ours else []
            found.append(entry)
    for ident, began_here in starts_of.items():
        living = store.lives(ident)
        host, namespace = owners[ident][1:3] if ident in owners else (None, None)
        for _, run, function, unique, handle, began, attempts in began_here:
            began = starts.since(store, ident, run, began)
            if began is None or (living and (job_older is None or now - began <= job_older)):
                continue
            targets = under_way.get((ident, run)) or under_way.get((ident, starts.PIPE), [])
            ours = (host, namespace) == here
            entry = described("job" if living else "start", ident, host, None, function, began, now, ours)
            job.put(entry, "unique", raw(unique))
            entry.update(handle=handle, attempts=attempts, run=run, targets=targets if living and ours else [])
            found.append(entry)
            for target in () if living else targets:
                orphan = {**entry, "kind": "orphan", "pid": target[0], "here": True, "targets": [target]}
                found.append(orphan)
    return found


def described(kind: str, worker: int, host, pid, function, began, now: float, ours: bool) -> dict:
    entry: dict = {"kind": kind, "worker": worker, "host": host, "pid": pid}
    job.put(entry, "function", None if function is None else raw(function))
    entry.update(since=iso(began), age=None if began is None else max(0, round(now - began, 1)), here=ours)
    return entry


def reap(store: Store, entry: dict, how: str, grace: float, report) -> str | None:
    """End what an entry names; how: hung (counts as an attempt) or released (does not). What was done, None for nothing.

    It ends them also where the file cannot be written: report(text) tells, and the mark is made afterwards. Raises
    Error where something is left.
    """
    kind, marked = entry["kind"], False
    if kind == "start":   # nothing runs; it counts as it is, but for being forgiven
        if how == "released":
            starts.give_back(store, entry["worker"], entry["run"])
            return how
        return None
    if not entry["targets"]:
        return None
    if kind != "orphan":
        try:
            with store.patience(MARK_WAIT):
                starts.mark(store, entry["worker"], how, entry.get("run"))
            marked = True
        except Unavailable as error:
            report(f"{error}: ending it all the same")
    left = end(entry["targets"], grace)
    if kind != "orphan" and not marked:
        starts.mark(store, entry["worker"], how, entry.get("run"))
    if left:
        raise Error(f"{kind} of worker {entry['worker']}: cannot end process {left[0][0]}: not permitted, "
                    "or stuck in the kernel")
    return "killed" if how == "hung" else "released"
