"""Signals as counts and flags that a loop acts on."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Counts the signals `numbers` from now on, which no longer end the process.

    fd becomes readable when any signal that has a handler arrives. Only one object of this class is in use at a time.
    """

    def __init__(self, *numbers: int):
        self.counts = dict.fromkeys(numbers, 0)
        self.fd, self.wakeup = os.pipe()
        for fd in (self.fd, self.wakeup):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.wakeup, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, self._count)

    def _count(self, number: int, _) -> None:
        self.counts[number] += 1

    def count(self, *numbers: int) -> int:
        """How many of these signals have arrived, or of all that are counted."""
        return sum(self.counts[number] for number in numbers or self.counts)

    def clear(self) -> None:
        """Make fd unreadable until the next signal."""
        try:
            os.read(self.fd, 512)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the pipe. A forked child does this before it sets up signals of its own."""
        signal.set_wakeup_fd(-1)
        os.close(self.fd)
        os.close(self.wakeup)


class Stopped(Exception):
    """The worker must end now. The job in hand, if any, goes back to its server uncounted."""


class Control:
    """When a worker must end: by signals, and by the death of its parent, which shows as the end of the pipe parent_fd.

    The first SIGTERM lets the job in hand finish within `grace` seconds, the second stops it. SIGHUP retires the worker
    between jobs, and so does the parent's death.
    interrupt: SIGINT counts as SIGTERM. A worker ignores it, since a terminal sends it to the parent too, which then
    sends SIGTERM.
    fd is readable when a signal arrived: call happened().
    """

    def __init__(self, grace: float, parent_fd: int | None = None, interrupt: bool = False):
        self.grace, self.parent_fd = grace, parent_fd
        self.until: float | None = None
        self._retired = False
        self.on_term = lambda: None
        self.stops = (signal.SIGTERM, signal.SIGINT) if interrupt else (signal.SIGTERM,)
        self.signals = Signals(*self.stops, signal.SIGHUP)
        self.fd = self.signals.fd
        if not interrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def happened(self) -> None:
        """Act on the signals that arrived. The first SIGTERM calls on_term() before anything else is done."""
        self.signals.clear()
        if self.stopping and self.until is None:
            self.until = time.monotonic() + self.grace
            self.on_term()
        if self.until is not None and self.signals.count(*self.stops) > 1:
            self.until = min(self.until, time.monotonic())

    def deadline(self) -> float | None:
        """The time.monotonic() by which the job in hand must end, None while nobody has said so."""
        return self.until

    @property
    def stopping(self) -> bool:
        """Whether a SIGTERM has arrived."""
        return self.signals.count(*self.stops) > 0

    @property
    def retired(self) -> bool:
        """Whether the worker is to be replaced after the job in hand. The worker itself may set it."""
        return self._retired or self.signals.count(signal.SIGHUP) > 0

    @retired.setter
    def retired(self, value: bool) -> None:
        self._retired = value

    def wait(self, seconds: float) -> None:
        """Sleep, but wake for a signal and for the parent's death."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        if self.parent_fd is not None:
            poll.register(self.parent_fd, 0)
        if any(fd == self.parent_fd for fd, _ in poll.poll(int(seconds * 1000))):
            self.retired = True
        self.happened()


def stopping() -> Signals:
    """The signals of a tool that stops in order: SIGTERM and SIGINT."""
    return Signals(signal.SIGTERM, signal.SIGINT)


def ignore_first_interrupt() -> None:
    """Let only a second SIGINT end a filter: a terminal sends Ctrl-C to the whole pipe, and the filter ends with its input."""
    signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.default_int_handler))


@contextlib.contextmanager
def held():
    """A context in which SIGINT, SIGTERM and SIGHUP wait, and threads that begin in it never see them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
