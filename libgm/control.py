"""What a long-running process of ours waits with: signals as flags, and pauses for trouble that lasts."""

from __future__ import annotations

import os
import random
import select
import signal
import time

from .cli import warn

PAUSE_MAX = 30.0           # seconds between tries of what a person must mend (a full disk, a missing command)
MEMORY = 26 << 10          # kB of resident memory over which a process of a fleet has itself replaced

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


class Trouble:
    """A growing pause for trouble that lasts, said once until it changes or is over."""

    def __init__(self):
        self.text, self.seconds, self.times = None, 0.5, 0

    def say(self, text: str) -> float:
        """The seconds to pause now, jittered."""
        if text != self.text:
            warn(text)
        self.text, self.seconds, self.times = text, min(PAUSE_MAX, self.seconds * 2), self.times + 1
        return self.seconds * random.uniform(0.8, 1.2)

    def over(self) -> None:
        if self.text is not None:
            warn("going on")
        self.__init__()


def resident() -> int:
    """This process's resident memory in kB."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10
