"""The parent of gm-work: starts its workers, replaces them, passes their events on, and ends them in order."""

from __future__ import annotations

import mmap
import os
import select
import signal
import time

from libgm.errors import CANNOT_RUN, NO, OK, UNAVAILABLE, Error, reason
from libgm.shell.lines import escaped
from libgm.shell.messages import warn
from libgm.shell.signals import SIGNALS
from libgm.worker.brake import brake_size

PAUSE_MAX = 60.0     # seconds between restarts of a worker that dies again and again
AT_ONCE = 10.0       # seconds that a worker lives at least, or sees to a job, to have died of that and not at once
LATE = 5.0           # seconds beyond the grace that a worker may take to end, before it is killed
RELEASER = -1        # the slot of the process that releases delayed retries
PENDING = 1 << 20    # bytes of events that wait for their reader, before workers wait too
ATOMIC = 4096        # bytes that a pipe which is ready takes without blocking: PIPE_BUF


class Child:
    """A worker's process, as its parent knows it."""

    __slots__ = ("slot", "pid", "events", "open", "buffer", "worked", "began")

    def __init__(self, slot: int, pid: int, events: int):
        self.slot, self.pid, self.events, self.open, self.buffer, self.worked = slot, pid, events, True, b"", False
        self.began = time.monotonic()


class Fleet:
    """settings: of work.Settings. Signals set flags; the loop acts."""

    def __init__(self, settings):
        self.settings = settings
        self.children: dict[int, Child] = {}      # by pid
        self.due: dict[int, float] = {}           # slot -> time.monotonic() of its next start
        self.pauses: dict[int, float] = {}        # slot -> last pause before a restart, seconds
        self.terms = self.hups = 0
        self.passed = 0                           # TERMs passed on
        self.status = OK
        self.events = 0
        self.pending = bytearray()                # of events that standard output has not taken yet
        self.terminal = os.isatty(1)
        self.silent = settings.quiet
        self.late: float | None = None            # time.monotonic() when workers that were told to end are killed
        self.brake_size = brake_size(settings.brake)
        self.brakes = mmap.mmap(-1, self.brake_size * settings.jobs)   # a worker's brake outlives the worker
        self.life = os.pipe()                     # its end tells the workers that the parent is dead

    def run(self) -> int:
        """Until all is done or stopped; the exit status."""
        wake, wakeup = os.pipe()
        for fd in (wake, wakeup):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number, act in ((signal.SIGTERM, self._term), (signal.SIGINT, self._term), (signal.SIGHUP, self._hup),
                            (signal.SIGCHLD, lambda *_: None)):
            signal.signal(number, act)
        self.wake = wake
        slots = list(range(self.settings.jobs))
        if not self.settings.until_empty:
            slots.append(RELEASER)
        self.due = dict.fromkeys(slots, 0.0)
        while self.due or self.children or (self.pending and not self.is_late()):
            self.start_due()
            self.step()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)   # one that comes now would only spoil the exit status
        if self.pending:
            lost = self.pending.count(b"\n")
            self.events -= lost
            self.deaf(f"its reader does not read: {lost} events are lost, stopping")
        try:
            os.close(os.dup(1))   # a failure of close() itself (a full disk elsewhere) counts too
        except OSError as error:
            self.deaf(f"cannot write: {reason(error)}: stopping")
        if self.settings.until_empty and not self.terms:
            self.tell_left()
        return self.status

    def tell_left(self) -> None:
        """--until-empty: say what is left for whoever works next."""
        from libgm.quarantine import jobs
        from libgm.quarantine.file import Store
        try:
            store = Store(self.settings.quarantine, readonly=True)
            count, due = jobs.delayed(store, self.settings.function)
            store.close()
        except Error as error:
            warn(str(error))
            return
        if count:
            warn(f"{self.settings.function.decode('utf-8', 'replace')}: {count} retries wait for their time, the first for "
                 f"{max(0.0, due - time.time()):.3g} s: left to whoever works next")

    def _term(self, number, _) -> None:
        self.terms += 1

    def _hup(self, *_) -> None:
        self.hups += 1

    def start_due(self) -> None:
        now = time.monotonic()
        for slot in [slot for slot, at in self.due.items() if at <= now]:
            del self.due[slot]
            self.start(slot)

    def start(self, slot: int) -> None:
        """Fork the process of a slot; in it, nothing of the parent is left but the brake and the two pipes."""
        reading, writing = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)   # until the child hears them itself (Control)
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.close(reading)
            os.close(writing)
            self.again(slot, f"cannot fork: {reason(error)}")
            return
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.close(writing)
            os.set_blocking(reading, False)
            self.children[pid] = Child(slot, pid, reading)
            return
        status = 1
        try:
            status = self.child(slot, reading, writing)
        except Error as error:
            warn(str(error))
            status = error.status
        except BaseException as error:   # a worker's end must never run on into the parent's code
            if os.environ.get("GM_DEBUG"):
                import traceback
                traceback.print_exc()
            warn(f"worker {os.getpid()}: {type(error).__name__}: {error}")
        finally:
            os._exit(status)

    def child(self, slot: int, reading: int, writing: int) -> int:
        signal.set_wakeup_fd(-1)
        os.close(self.life[1])
        os.close(reading)
        os.close(self.wake)
        for other in self.children.values():
            os.close(other.events)
        if slot == RELEASER:
            from libgm.worker.retries import run_releaser
            return run_releaser(self.settings, self.life[0])
        at = slot * self.brake_size
        brake = memoryview(self.brakes)[at:at + self.brake_size]
        if self.settings.pipe:
            from libgm.worker.pipe_process import PipeWorker as WorkerProcess
        else:
            from libgm.worker.process import WorkerProcess
        return WorkerProcess(self.settings, writing, self.life[0], brake).main()

    def step(self) -> None:
        """Wait for something to happen, and see to it."""
        poll, by_fd = select.poll(), {}
        poll.register(self.wake, select.POLLIN)
        if self.pending:
            poll.register(1, select.POLLOUT)
        if len(self.pending) < PENDING or self.terms:
            by_fd = {child.events: child for child in self.children.values() if child.open}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        times = [*self.due.values(), *([] if self.late is None else [self.late])]
        wait = max(0, int((min(times) - time.monotonic()) * 1000) + 1) if times else None
        for fd, _ in poll.poll(wait):
            if fd == self.wake:
                try:
                    os.read(fd, 512)
                except BlockingIOError:
                    pass
            elif fd in by_fd:
                self.take(by_fd[fd])
            else:
                self.write_out()
        self.reap()
        while self.passed < self.terms:
            self.passed += 1
            self.due.clear()
            self.tell(signal.SIGTERM)
            if self.passed == 1 and self.children and os.isatty(2):
                warn("told to stop: finishing the jobs in hand; once more gives them back")
            self.late = time.monotonic() + LATE + (self.settings.grace if self.passed == 1 else 0)
        if self.hups:
            self.hups = 0
            self.tell(signal.SIGHUP)
        if self.children and self.is_late():
            self.kill_late()

    def is_late(self) -> bool:
        return self.late is not None and time.monotonic() >= self.late

    def kill_late(self) -> None:
        """End workers that are hung, and what they run, since they do not end when they are told to."""
        from libgm.worker.orphans import end, jobs_of
        self.late = time.monotonic() + LATE
        for child in list(self.children.values()):
            warn(f"worker {child.pid} does not end: killing it")
            jobs = jobs_of(child.pid)
            os.kill(child.pid, signal.SIGKILL)
            end(jobs, 1.0)

    def tell(self, number: int) -> None:
        for pid in self.children:
            os.kill(pid, number)

    def take(self, child: Child) -> bool:
        """Pass on the whole lines that a worker has written; False at the end of its pipe."""
        try:
            data = os.read(child.events, 1 << 16) if child.open else b""
        except BlockingIOError:
            return False
        if not data:
            child.open = False
            return False
        head, newline, rest = data.rpartition(b"\n")
        if newline:
            child.worked = True
            if not self.silent:
                lines = child.buffer + head + newline
                self.pending += escaped(lines) if self.terminal else lines
            self.events += head.count(b"\n") + 1
            child.buffer = rest
        else:
            child.buffer += data
        return True

    def write_out(self) -> None:
        """Write events as far as standard output takes them without blocking: signals are not kept waiting."""
        try:
            del self.pending[:os.write(1, self.pending[:ATOMIC])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.deaf("its reader has gone: stopping")
        except OSError as error:
            self.deaf(f"cannot write: {reason(error)}: stopping")

    def deaf(self, why: str) -> None:
        """Events cannot be passed on: take no more jobs, finish those in hand."""
        self.silent, self.status = True, NO
        self.pending.clear()
        self.terms += not self.terms
        warn(f"standard output: {why} after {self.events} events")

    def reap(self) -> None:
        """See to workers that have ended: replace them, at once or after a growing pause."""
        from libgm.worker.process import EMPTY
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            child = self.children.pop(pid, None)
            if child is None:
                continue
            while self.take(child):
                pass
            os.close(child.events)
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
            if self.terms or code == EMPTY:
                continue
            if code in (UNAVAILABLE, CANNOT_RUN) and self.settings.until_empty:
                self.status = code
            elif code == OK:
                self.pauses.pop(child.slot, None)
                self.due[child.slot] = 0.0
            else:
                if child.worked or time.monotonic() - child.began > AT_ONCE:
                    self.pauses.pop(child.slot, None)
                self.again(child.slot, "killed by " + signal.Signals(os.WTERMSIG(status)).name if code is None
                           else f"ended with status {code}")

    def again(self, slot: int, why: str) -> None:
        """Start a slot's process again, at once the first time, then after 0.1 s, doubling."""
        pause = self.pauses.get(slot)
        self.pauses[slot] = 0.05 if pause is None else min(PAUSE_MAX, pause * 2)
        pause = 0.0 if pause is None else self.pauses[slot]
        warn(f"a worker was {why}: " + (f"starting another in {pause:g} s" if pause else "starting another"))
        self.due[slot] = time.monotonic() + pause
