"""What the parent does with its workers' events: passes them on to standard output, counts them, sums up an outage."""

from __future__ import annotations

import json
import os
import time

from libgm.errors import Unavailable, reason
from libgm.shell.lines import escaped
from libgm.shell.messages import warn
from libgm.units import age

PENDING = 1 << 20    # bytes of events that wait for their reader, before workers wait too
ATOMIC = 4096        # bytes that a pipe which is ready takes without blocking: PIPE_BUF
COUNT = 5.0          # seconds between two writes of the counts
FIRST = 5            # failures held in an outage that are told one by one,
SUMMARY = 60.0       # and seconds between two lines about the others


class Events:
    """Where the events of all workers go.

    .pending: bytes that standard output has not taken yet. .deaf: why it takes no more, None while it does.
    """

    def __init__(self, settings):
        self.settings = settings
        self.pending = bytearray()
        self.terminal = os.isatty(1)
        self.silent = settings.quiet
        self.deaf: str | None = None
        self.count = 0                # events passed on
        self.tally = Tally(settings)
        self.outage = Outage(settings)

    @property
    def full(self) -> bool:
        return len(self.pending) >= PENDING

    def take(self, lines: bytes) -> None:
        """Pass on whole lines."""
        self.tally.take(lines)
        self.outage.take(lines)
        self.count += lines.count(b"\n")
        if not self.silent:
            self.pending += escaped(lines) if self.terminal else lines

    def write(self) -> None:
        """Write as far as standard output takes without blocking: signals are not kept waiting."""
        try:
            del self.pending[:os.write(1, self.pending[:ATOMIC])]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.fail("its reader has gone: stopping")
        except OSError as error:
            self.fail(f"cannot write: {reason(error)}: stopping")

    def close(self) -> None:
        """The end: nobody waits for a reader any longer. A failure of close() itself (a full disk elsewhere) counts too."""
        self.tally.write()
        if self.pending:
            lost = self.pending.count(b"\n")
            self.count -= lost
            self.fail(f"its reader does not read: {lost} events are lost, stopping")
        try:
            os.close(os.dup(1))
        except OSError as error:
            self.fail(f"cannot write: {reason(error)}: stopping")

    def fail(self, why: str) -> None:
        """Events cannot be passed on."""
        self.silent, self.deaf = True, why
        self.pending.clear()
        warn(f"standard output: {why} after {self.count} events")


def count(lines: bytes, event: str) -> int:
    """How many of whole lines are that event."""
    begin = b'{"event":"%s"' % event.encode()
    return lines.count(b"\n" + begin) + lines.startswith(begin)


class Tally:
    """Runs that ended, done and failed, on their way into the quarantine file."""

    def __init__(self, settings):
        self.settings = settings
        self.done = self.failed = 0
        self.at: float | None = None   # time.monotonic() of the next write

    def take(self, lines: bytes) -> None:
        self.done += count(lines, "done")
        self.failed += sum(count(lines, event) for event in ("retry", "hold", "dead", "drop"))
        if self.at is None and (self.done or self.failed):
            self.at = time.monotonic() + COUNT

    def write(self) -> None:
        """Add what was counted to the file; where that is busy, later.

        The file is opened anew each time: a connection that is open while a worker is forked would spoil its locks.
        """
        from libgm.quarantine import tallies
        from libgm.quarantine.file import Store
        self.at = None
        if not (self.done or self.failed):
            return
        try:
            store = Store(self.settings.quarantine, busy=0.5)
            try:
                with store.transaction(durable=False):
                    tallies.add(store, self.settings.function, self.done, self.failed, time.time())
            finally:
                store.close()
        except Unavailable:   # the workers tell what is wrong with it
            self.at = time.monotonic() + COUNT
            return
        self.done = self.failed = 0


class Outage:
    """Failures that are held, told on stderr: the first ones, then a line a minute."""

    def __init__(self, settings):
        self.settings, self.function = settings, settings.function.decode("utf-8", "replace")
        self.began: float | None = None   # time.monotonic() of the first hold
        self.held = self.untold = 0
        self.at = 0.0                     # time.monotonic() of the next line
        self.last = b""                   # hold event that is not told yet

    def take(self, lines: bytes) -> None:
        if self.began is not None and count(lines, "done"):
            warn(f"{self.function}: a job succeeded: the outage is over, and the held jobs are tried again")
            self.__init__(self.settings)
        if not count(lines, "hold"):
            return
        if self.began is None:
            self.began = time.monotonic()
            self.at = self.began + SUMMARY
            warn(f"{self.function}: {self.settings.brake} different jobs failed in a row: assuming an outage. Until one "
                 "succeeds, failures are held and do not count (--brake=0 counts each)")
        for line in lines.splitlines():
            if line.startswith(b'{"event":"hold"'):
                self.held += 1
                if self.held <= FIRST:
                    event = json.loads(line)
                    warn(f"{self.function}: {event['handle']}: {event['error']}: held")
                else:
                    self.untold, self.last = self.untold + 1, line

    def tell(self) -> None:
        """A line about what was held since the last one."""
        self.at = time.monotonic() + SUMMARY
        if self.untold and self.began is not None:
            error = json.loads(self.last)["error"]
            warn(f"{self.function}: an outage for {age(time.monotonic() - self.began)}: {self.untold} more failures held, "
                 f"the last: {error}")
            self.untold = 0

    def due(self) -> float | None:
        """time.monotonic() of the next line, None where there is nothing to tell."""
        return self.at if self.untold else None
