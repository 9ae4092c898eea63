"""The parent of gm-work: starts its workers, replaces them, passes their events on, and ends them in order."""

from __future__ import annotations

import mmap
import os
import select
import signal
import time

from .cli import warn
from .errors import OK, UNAVAILABLE, Error
from .lines import Output, ReaderGone
from .policy import brake_size

PAUSE_MAX = 60.0     # seconds between restarts of a worker that dies again and again
RELEASER = -1        # the slot of the process that releases delayed retries


class Child:
    """A worker's process, as its parent knows it."""

    __slots__ = ("slot", "pid", "events", "open", "buffer", "worked")

    def __init__(self, slot: int, pid: int, events: int):
        self.slot, self.pid, self.events, self.open, self.buffer, self.worked = slot, pid, events, True, b"", False


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
        self.output: Output | None = Output(quiet=settings.quiet)
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
        self.poll = select.poll()
        self.poll.register(wake, select.POLLIN)
        self.wake = wake
        slots = list(range(self.settings.jobs))
        if not self.settings.until_empty:
            slots.append(RELEASER)
        self.due = dict.fromkeys(slots, 0.0)
        while self.due or self.children:
            self.start_due()
            self.step()
        try:
            if self.output is not None:
                self.output.close()
        except ReaderGone:
            self.reader_gone()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)   # one that comes now would only spoil the exit status
        return self.status

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
        try:
            pid = os.fork()
        except OSError as error:
            os.close(reading)
            os.close(writing)
            self.again(slot, f"cannot fork: {error.strerror}")
            return
        if pid:
            os.close(writing)
            os.set_blocking(reading, False)
            self.children[pid] = Child(slot, pid, reading)
            self.poll.register(reading, select.POLLIN)
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
            from .release import run_releaser
            return run_releaser(self.settings, self.life[0])
        at = slot * self.brake_size
        brake = memoryview(self.brakes)[at:at + self.brake_size]
        from .work import WorkerProcess
        return WorkerProcess(self.settings, writing, self.life[0], brake).main()

    def step(self) -> None:
        """Wait for something to happen, and see to it."""
        wait = None
        if self.due:
            wait = max(0, int((min(self.due.values()) - time.monotonic()) * 1000) + 1)
        by_fd = {child.events: child for child in self.children.values()}
        for fd, _ in self.poll.poll(wait):
            if fd == self.wake:
                try:
                    os.read(fd, 512)
                except BlockingIOError:
                    pass
            elif fd in by_fd:
                self.take(by_fd[fd])
        self.flush()
        self.reap()
        while self.passed < self.terms:
            self.passed += 1
            self.due.clear()
            self.tell(signal.SIGTERM)
        if self.hups:
            self.hups = 0
            self.tell(signal.SIGHUP)

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
            if child.open:
                self.poll.unregister(child.events)
                child.open = False
            return False
        head, newline, rest = data.rpartition(b"\n")
        if newline:
            child.worked = True
            self.write(child.buffer + head + newline)
            child.buffer = rest
        else:
            child.buffer += data
        return True

    def write(self, data: bytes) -> None:
        self.events += data.count(b"\n")
        if self.output is not None:
            try:
                self.output.write(data)
            except ReaderGone:
                self.reader_gone()

    def flush(self) -> None:
        if self.output is not None:
            try:
                self.output.flush()
            except ReaderGone:
                self.reader_gone()

    def reader_gone(self) -> None:
        """Nobody reads the events: take no more jobs, finish those in hand."""
        self.output = None
        self.status = 1
        self.terms += 1
        warn(f"standard output: its reader has gone: stopping after {self.events} events")

    def reap(self) -> None:
        """See to workers that have ended: replace them, at once or after a growing pause."""
        from .work import EMPTY
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            child = self.children.pop(pid, None)
            if child is None:
                continue
            while self.take(child):
                pass
            if child.open:
                self.poll.unregister(child.events)
            os.close(child.events)
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
            if self.terms or code == EMPTY:
                continue
            if code == UNAVAILABLE:
                self.status = UNAVAILABLE
            elif code == OK:
                self.pauses.pop(child.slot, None)
                self.due[child.slot] = 0.0
            else:
                if child.worked:   # it died, but not at once
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
