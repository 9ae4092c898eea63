"""Processes of jobs whose worker is dead or hung: found by their environment, ended by process group."""

from __future__ import annotations

import os
import signal
import time

from libgm.quarantine import processes
from libgm.quarantine.file import Store


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
            started = processes.start_time(name)
            if len(run) == 2 and run[0].isdigit() and run[1].isdigit() and started is not None:
                self.append((int(name), started, (int(run[0]), int(run[1]))))


def jobs_of(worker: int) -> list[tuple[int, int]]:
    """(pid, start time) of the children of a worker's process: its jobs."""
    try:
        with open(f"/proc/{worker}/task/{worker}/children", encoding="ascii") as children:
            return [(int(pid), processes.start_time(pid) or 0) for pid in children.read().split()]
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
        if processes.start_time(pid) != started:   # no reused pid is hit
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
