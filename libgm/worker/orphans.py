"""Processes of jobs that nobody sees to any more: their worker is dead or hung, or they left the group of a job that was ended.

They are found by $GM_RUN in their environment (FILE.WORKER.RUN), which COMMAND and all that it starts inherit. A user can
set it in the processes of another user only by starting a set-user-ID program.
"""

from __future__ import annotations

import collections
import os
import signal
import time

from libgm.quarantine import processes
from libgm.quarantine.file import Store

KILL_WAIT = 5.0   # seconds for the kernel to end what got a SIGKILL


class JobProcess(collections.namedtuple("JobProcess", "pid started run")):
    """A process of a job; started: by processes.start_time(); run: (its worker's id in the file, the number of the run)."""

    __slots__ = ()

    def belongs_to(self, worker: int | None) -> bool:
        """Whether it may be ended as a job of a living worker's process, or of a dead worker where that is None."""
        uids = user_ids(self.pid)
        if not worker:   # 0: of another pid namespace
            return worker is None and len(uids) == 1
        return uids == user_ids(worker) or worker in ancestors(self.pid)


def job_processes(store: Store) -> list[JobProcess]:
    """The processes that say they run a job for the file of store. Those of other users cannot be read, but by root."""
    found = []
    for pid, mark in marked():
        tag, _, run = mark.decode("ascii", "replace").partition(".")
        worker, _, number = run.partition(".")
        started = processes.start_time(pid)
        if tag == store.tag and worker.isdigit() and number.isdigit() and started is not None:
            found.append(JobProcess(pid, started, (int(worker), int(number))))
    return found


def marked():
    """Yield (pid, $GM_RUN) of each process that has it set."""
    for name in os.listdir("/proc"):
        mark = mark_of(name) if name.isdigit() else b""
        if mark:
            yield int(name), mark


def mark_of(pid: int | str) -> bytes:
    """$GM_RUN of a process; empty where it has none, or we may not look."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            return (b"\0" + environ.read()).partition(b"\0GM_RUN=")[2].partition(b"\0")[0]
    except OSError:
        return b""


def user_ids(pid: int) -> set[bytes]:
    """The real, effective and saved user ids of a process; none where there is no such process."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            return next((set(line.split()[1:4]) for line in status if line.startswith(b"Uid:")), set())
    except OSError:
        return set()


def ancestors(pid: int) -> list[int]:
    """The parent of a process, its parent, and so on."""
    found: list[int] = []
    while pid > 1:
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:
                pid = int(stat.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            break
        found.append(pid)
    return found


def jobs_of(worker: int) -> list[tuple[int, int]]:
    """(pid, start time) of the processes of a worker's jobs: its children, and what they started."""
    try:
        with open(f"/proc/{worker}/task/{worker}/children", encoding="ascii") as children:
            found = [int(pid) for pid in children.read().split()]
    except OSError:
        return []
    marks = {mark_of(pid) for pid in found} - {b""}
    found += [pid for pid, mark in marked() if mark in marks and pid not in found]
    return [(pid, processes.start_time(pid) or 0) for pid in found]


def end(targets: list[tuple[int, int]], grace: float) -> list[tuple[int, int]]:
    """End processes, each a (pid, start time), with their groups: TERM, and KILL after grace seconds. Wait until they ended.

    Return those that are not ours to end, or that nothing ends.
    """
    left = [each for each in targets if running(*each)]
    for sig, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, KILL_WAIT)):
        ours = [each for each in left if send(*each, sig)]
        until = time.monotonic() + patience
        while any(running(*each) for each in ours) and time.monotonic() < until:
            time.sleep(0.01)
        left = [each for each in left if running(*each)]
    return left


def send(pid: int, started: int, sig: int) -> bool:
    """Send a signal to a process and, where it leads one, to its group; False where that is not allowed."""
    try:
        if processes.start_time(pid) != started:   # the pid is another's by now
            return True
        kill = os.killpg if os.getpgid(pid) == pid else os.kill
        kill(pid, sig)
        if sig == signal.SIGTERM:
            kill(pid, signal.SIGCONT)   # so that a stopped one can act on it
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
    """End what still runs of those runs: of a dead worker's before the same job is started again, or of an ended job."""
    end([found[:2] for found in job_processes(store) if found.run in runs and found.belongs_to(None)], grace)
