"""The parent of gm-work: starts its workers, replaces them, passes their events on, and ends them in order."""

from __future__ import annotations

import mmap
import os
import select
import signal
import time

from libgm.backoff import Backoff
from libgm.errors import CANNOT_RUN, NO, OK, UNAVAILABLE, Error, reason
from libgm.shell.messages import warn
from libgm.shell.signals import SIGNALS, Signals
from libgm.worker.events import Events
from libgm.worker.pace import Pace, pace_size
from libgm.worker.settings import EMPTY, REPLACED, RETIRED, Settings

PAUSE, PAUSE_MAX = 0.1, 60.0   # seconds between restarts of a worker that dies again and again
AT_ONCE = 10.0       # seconds; a worker that dies sooner, and without an event, has died at once
LATE = 5.0           # seconds beyond the grace that a worker may take to end, before it is killed
RELEASER = -1        # slot of the process that releases delayed retries


class Child:
    """A worker's process, as its parent knows it."""

    __slots__ = ("slot", "pid", "events", "open", "buffer", "worked", "began")

    def __init__(self, slot: int, pid: int, events: int):
        self.slot, self.pid, self.events, self.open, self.buffer, self.worked = slot, pid, events, True, b"", False
        self.began = time.monotonic()


class Parent:
    """The workers of a gm-work. Signals set flags; the loop acts."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.children: dict[int, Child] = {}      # by pid
        self.due: dict[int, float] = {}           # slot -> time.monotonic() of its next start
        self.pauses: dict[int, Backoff] = {}      # slot -> the pauses before its restarts
        self.over = False                         # something else than a signal ends it
        self.passed = self.hups = 0               # TERMs and HUPs passed on
        self.status = OK
        self.events = Events(settings)
        self.late: float | None = None            # time.monotonic() when workers that were told to end are killed
        self.paces = mmap.mmap(-1, pace_size(settings.jobs))   # the pace of the jobs outlives a worker
        self.life = os.pipe()                     # its end tells the workers that the parent is dead
        self.ends_with_terminal = has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        self.signals = Signals(*SIGNALS, signal.SIGCHLD)

    def run(self) -> int:
        """Until all is done or stopped; the exit status."""
        slots = list(range(self.settings.jobs))
        if not self.settings.until_empty:
            slots.append(RELEASER)
        self.due = dict.fromkeys(slots, 0.0)
        while self.due or self.children or (self.events.pending and not self.is_late()):
            self.start_due()
            self.step()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)   # one that comes now would only spoil the exit status
        self.events.close()
        if self.events.deaf:
            return NO
        if self.settings.until_empty and not self.terms:
            self.tell_left()
        return self.status

    def tell_left(self) -> None:
        """--until-empty: tell what is left for whoever works next."""
        from libgm.quarantine import jobs, pauses
        from libgm.quarantine.file import Store
        from libgm.units import counted
        function = self.settings.function.decode("utf-8", "replace")
        try:
            store = Store(self.settings.quarantine, readonly=True)
            count, due = jobs.delayed(store, self.settings.function)
            pause = pauses.find(store, self.settings.function, time.time())
            store.close()
        except Error as error:
            warn(str(error))
            return
        if pause:
            warn(f"{function}: {pause}: its jobs stay in the queue")
        if count:
            warn(f"{function}: {counted(count, 'delayed job')} left, the first due in "
                 f"{max(0.0, due - time.time()):.3g} s: any gm-work on this file submits what is due")

    @property
    def terms(self) -> int:
        """How often it was told to stop."""
        return self.signals.count(signal.SIGTERM, signal.SIGINT) + self.over

    def stop(self) -> None:
        """As a first SIGTERM does: let the jobs in hand be finished, and end."""
        self.over = self.over or not self.terms

    # ---- starting workers

    def start_due(self) -> None:
        now = time.monotonic()
        for slot in [slot for slot, at in self.due.items() if at <= now]:
            del self.due[slot]
            self.start(slot)

    def start(self, slot: int) -> None:
        """Fork the process of a slot."""
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
        """Run a worker in this process, a new child; its exit status."""
        self.signals.close()
        os.close(self.life[1])
        os.close(reading)
        for other in self.children.values():
            os.close(other.events)
        if slot == RELEASER:
            from libgm.worker.retries import run_releaser
            return run_releaser(self.settings, self.life[0])
        from libgm.worker.process import WorkerProcess
        return WorkerProcess(self.settings, writing, self.life[0], Pace(memoryview(self.paces), slot)).main()

    # ---- once round

    def step(self) -> None:
        """Wait for something to happen, and see to it."""
        poll, by_fd = select.poll(), {}
        poll.register(self.signals.fd, select.POLLIN)
        if self.events.pending:
            poll.register(1, select.POLLOUT)
        if not self.events.full or self.terms:
            by_fd = {child.events: child for child in self.children.values() if child.open}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        times = [*self.due.values(), *(at for at in (self.late, self.events.tally.at, self.events.outage.due()) if at is not None)]
        wait = max(0, int((min(times) - time.monotonic()) * 1000) + 1) if times else None
        for fd, _ in poll.poll(wait):
            if fd == self.signals.fd:
                self.signals.clear()
            elif fd in by_fd:
                self.take(by_fd[fd])
            else:
                self.events.write()
        self.see_to_events()
        self.reap()
        self.pass_signals_on()
        if self.children and self.is_late():
            self.kill_late()

    def see_to_events(self) -> None:
        """What is due by the clock, and the end where nobody takes the events any more."""
        now, events = time.monotonic(), self.events
        if events.tally.at is not None and now >= events.tally.at:
            events.tally.write()
        at = events.outage.due()
        if at is not None and now >= at:
            events.outage.tell()
        if events.deaf:
            self.stop()

    def pass_signals_on(self) -> None:
        hups = self.signals.count(signal.SIGHUP)
        if hups > self.hups and self.ends_with_terminal and not has_terminal():
            self.hups = hups
            self.stop()
        while self.passed < self.terms:
            self.passed += 1
            self.due.clear()
            self.tell(signal.SIGTERM)
            if self.passed == 1 and self.children and os.isatty(2):
                warn("told to stop: finishing the jobs in hand. Signal again to return them to the queue")
            self.late = time.monotonic() + LATE + (self.settings.grace if self.passed == 1 else 0)
        if hups > self.hups:
            self.hups = hups
            self.tell(signal.SIGHUP)

    def is_late(self) -> bool:
        return self.late is not None and time.monotonic() >= self.late

    def kill_late(self) -> None:
        """Kill workers that do not end when they are told to, and what they run."""
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
            self.events.take(child.buffer + head + newline)
            child.buffer = rest
        else:
            child.buffer += data
        return True

    # ---- their ends

    def reap(self) -> None:
        """See to workers that have ended: replace them, at once or after a growing pause."""
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
            self.ended(child, status)

    def ended(self, child: Child, status: int) -> None:
        """A worker has ended, with that status of waitpid()."""
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        if code == REPLACED:
            self.replaced()
        if self.terms or code == EMPTY:
            return
        if code in (UNAVAILABLE, CANNOT_RUN) and self.settings.until_empty:
            self.status = code
        elif code == RETIRED:
            self.pauses.pop(child.slot, None)
            self.due[child.slot] = 0.0
        else:
            if child.worked or time.monotonic() - child.began > AT_ONCE:
                self.pauses.pop(child.slot, None)
            self.again(child.slot, "killed by " + signal.Signals(os.WTERMSIG(status)).name if code is None
                       else f"ended with status {code}")

    def replaced(self) -> None:
        """The quarantine file is another one now: end."""
        if self.status != UNAVAILABLE:
            warn(f"{self.settings.quarantine}: replaced while in use: stop all, remove -wal and -shm, start again")
        self.status = UNAVAILABLE
        self.stop()

    def again(self, slot: int, why: str) -> None:
        """Start a slot's process again, at once the first time, then after a growing pause."""
        pause = self.pauses[slot].next() if slot in self.pauses else 0.0
        self.pauses.setdefault(slot, Backoff(PAUSE, PAUSE_MAX, 0.0))
        warn(f"a worker was {why}: " + (f"starting another in {pause:g} s" if pause else "starting another"))
        self.due[slot] = time.monotonic() + pause


def has_terminal() -> bool:
    """Whether this process has a controlling terminal, which is not so any more once that was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        return True
    except OSError:
        return False
