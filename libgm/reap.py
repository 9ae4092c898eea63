"""Processes of jobs whose worker is dead or hung: found by what their environment says, ended by group."""

from __future__ import annotations

import os
import signal
import time

from . import alive, job, starts
from .errors import Unavailable
from .runner import end_group
from .store import Store, raw
from .units import iso

MARK_WAIT = 2000   # ms that a worker which is stopped inside a write may keep us from marking its starts


def job_processes(path: str) -> list[tuple[int, int, int]]:
    """(pid, start time, process id of its worker in the file) of each process that runs a job for the file at path.

    By $GM_QUARANTINE and $GM_RUN (WORKER.RUN) in /proc/PID/environ: those of other users cannot be read.
    """
    found = []
    want = b"GM_QUARANTINE=" + os.fsencode(path)
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as environ:
                variables = environ.read().split(b"\0")
        except OSError:
            continue
        run = next((value[7:] for value in variables if value.startswith(b"GM_RUN=")), b"")
        owner = run.partition(b".")[0]
        started = alive.start_time(name)
        if owner.isdigit() and want in variables and started is not None:
            found.append((int(name), started, int(owner)))
    return found


def end(processes: list[tuple[int, int]], grace: float) -> None:
    """End processes, each a (pid, start time), with their groups: TERM, and KILL after grace seconds; until they are gone."""
    left = [(pid, started) for pid, started in processes if alive.start_time(pid) == started]
    for sig in (signal.SIGTERM, signal.SIGKILL):
        for pid, started in left:
            if alive.start_time(pid) == started:   # no reused pid is hit
                if os.getpgid(pid) == pid:
                    end_group(pid, sig)
                else:
                    os.kill(pid, sig)
        until = time.monotonic() + (grace if sig == signal.SIGTERM else 5.0)
        while left and time.monotonic() < until:
            left = [(pid, started) for pid, started in left if running(pid, started)]
            time.sleep(0.02 if left else 0)
        if not left:
            return


def running(pid: int, started: int) -> bool:
    """Whether the process with that pid and start time runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        return int(fields[19]) == started and fields[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def end_orphans(store: Store, owners: set[int], grace: float = 1.0) -> None:
    """End what still runs of the jobs of dead workers, before the same job is started again."""
    end([(pid, started) for pid, started, owner in job_processes(store.path) if owner in owners], grace)


def overstaying(store: Store, older: float | None, job_older: float | None) -> list[dict]:
    """What overstays, as dicts: workers older than `older`, jobs running longer than `job_older` (seconds; None: not
    asked for), processes of jobs whose worker is dead (orphan), starts whose owner is dead (start).

    Each holds `kind`, what gm-reap prints of it, and under `targets` the (pid, start time) of what to end.
    """
    now, here = time.time(), (os.uname().nodename, alive.namespace())
    running: dict[int, list[tuple[int, int]]] = {}
    for pid, started, owner in job_processes(store.path):
        running.setdefault(owner, []).append((pid, started))
    found, live = [], set()
    for ident, tool, host, namespace, pid, pid_start, began, function in store.execute(
            "SELECT id, tool, host, namespace, pid, pid_start, started, function FROM process ORDER BY id").fetchall():
        if not store.lives(ident):
            continue
        live.add(ident)
        ours = (host, namespace) == here
        if older is not None and tool == "gm-work" and now - began > older:
            entry = described("worker", ident, host, pid, function, began, now, ours)
            entry["targets"] = [(pid, pid_start), *running.get(ident, ())] if ours else []
            found.append(entry)
    for ident, run, host, namespace, function, unique, handle, began, attempts in store.execute(
            "SELECT s.process, s.run, p.host, p.namespace, s.function, s.unique_, s.handle, s.started, s.attempts "
            "FROM start s LEFT JOIN process p ON p.id = s.process ORDER BY s.process, s.run").fetchall():
        alive_now = ident in live
        if alive_now and (job_older is None or now - began <= job_older):
            continue
        ours = alive_now and (host, namespace) == here
        entry = described("job" if alive_now else "start", ident, host, None, function, began, now, ours)
        job.put(entry, "unique", raw(unique))
        entry.update(handle=handle, attempts=attempts, run=run, targets=running.get(ident, []) if ours else [])
        found.append(entry)
    for owner, processes in running.items():
        if owner not in live:
            for pid, started in processes:
                entry = described("orphan", owner, here[0], pid, None, None, now, True)
                entry["targets"] = [(pid, started)]
                found.append(entry)
    return found


def described(kind: str, worker: int, host, pid, function, began, now: float, ours: bool) -> dict:
    entry: dict = {"kind": kind, "worker": worker, "host": host, "pid": pid}
    job.put(entry, "function", None if function is None else raw(function))
    entry.update(since=iso(began), age=None if began is None else max(0, round(now - began, 1)), here=ours)
    return entry


def reap(store: Store, entry: dict, how: str, grace: float, report) -> str | None:
    """End what an entry names; how: hung (counts as an attempt) or released (does not). What was done, None for nothing.

    It ends them also where the file cannot be written: report(text) tells, and the mark is made afterwards.
    """
    if not entry["targets"]:
        return None
    marks = entry["kind"] in ("worker", "job")
    wait = store.execute("PRAGMA busy_timeout").fetchone()[0]
    marked = False
    if marks:
        store.execute(f"PRAGMA busy_timeout={MARK_WAIT}")
        try:
            starts.mark(store, entry["worker"], how, entry.get("run"))
            marked = True
        except Unavailable as error:
            report(f"{error}: ending it all the same")
        finally:
            store.execute(f"PRAGMA busy_timeout={wait}")
    end(entry["targets"], grace)
    if marks and not marked:
        starts.mark(store, entry["worker"], how, entry.get("run"))
    return "killed" if how == "hung" else "released"
