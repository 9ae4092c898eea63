"""Signals as flags that a loop acts on."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(Exception):
    """The worker is to end now; the job in hand, if any, goes back to its server uncounted."""


class Control:
    """Signals as flags: TERM finishes the job in hand within the grace, a second one stops it; HUP retires; so
    does the death of the parent, which shows as the end of the pipe parent_fd. interrupt: INT counts as TERM; a
    worker ignores it, since the terminal's reaches the parent too, which sends TERM."""

    def __init__(self, grace: float, parent_fd: int, interrupt: bool = False):
        self.grace, self.parent_fd = grace, parent_fd
        self.terms, self.retired, self.until = 0, False, None
        self.on_term = lambda: None
        self.fd, wakeup = os.pipe()
        for fd in (self.fd, wakeup):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._term)
        signal.signal(signal.SIGHUP, self._retire)
        signal.signal(signal.SIGINT, self._term if interrupt else signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _term(self, *_) -> None:
        self.terms += 1

    def _retire(self, *_) -> None:
        self.retired = True

    def happened(self) -> None:
        """Act on what woke us: read the wake-up pipe; at the first TERM say so before anything else."""
        try:
            os.read(self.fd, 512)
        except BlockingIOError:
            pass
        if self.terms and self.until is None:
            self.until = time.monotonic() + self.grace
            self.on_term()
        if self.terms > 1:
            self.until = min(self.until, time.monotonic())

    def deadline(self) -> float | None:
        return self.until

    @property
    def stopping(self) -> bool:
        return self.terms > 0

    def wait(self, seconds: float) -> None:
        """Sleep, but wake for a signal and for the parent's death."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(self.parent_fd, 0)
        for fd, _ in poll.poll(int(seconds * 1000)):
            if fd == self.parent_fd:
                self.retired = True
        self.happened()


class Stopping:
    """SIGTERM and SIGINT from now on: .count of them, .set after the first, .fd readable when one came."""

    def __init__(self):
        import signal
        self.count = 0
        self.fd, wakeup = os.pipe()
        for fd in (self.fd, wakeup):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.note)

    def note(self, *_) -> None:
        self.count += 1

    @property
    def set(self) -> bool:
        return self.count > 0


def stopping() -> Stopping:
    """For a tool that stops in order: its signals, which no longer end it."""
    return Stopping()


def ignore_first_interrupt() -> None:
    """For a filter in a pipe that a terminal's Ctrl-C reaches as a whole: it ends with its input, or on the second SIGINT."""
    import signal
    signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.default_int_handler))


@contextlib.contextmanager
def held():
    """A context in which SIGINT, SIGTERM and SIGHUP wait, and threads that begin in it never see them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
