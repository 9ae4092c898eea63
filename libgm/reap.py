"""Processes of jobs whose worker is dead or hung: found by what their environment says, ended by group."""

from __future__ import annotations

import os
import signal
import time

from . import alive
from .runner import end_group
from .store import Store


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
