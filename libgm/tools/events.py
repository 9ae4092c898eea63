"""gm-work's events on their way through a filter: printed on, and delivered elsewhere by a thread that never holds them up."""

from __future__ import annotations

import collections
import threading
import time

from libgm import job
from libgm.errors import Usage, reason
from libgm.shell.lines import Input, Output, ReaderGone, records

KEPT = 10000    # messages that wait for a receiver that is away
PATIENCE = 1.0  # seconds for a receiver that is there to make room for a tenth of them, or it is too slow
LINGER = 2.0    # seconds at the end for what is still under way, anew with each message that arrives
LONGEST = 60.0  # seconds at the end in all
PAUSE = (0.1, 5.0)   # seconds between attempts, the first and the longest
QUIET = 60.0         # seconds for which a receiver that comes and goes is not told of again


def through(output: Output, report, waiting=lambda: None):
    """Each event of standard input, a dict, its line written to output before; waiting() before the input blocks.

    Lines that are no JSON object are printed on too, and go to report(BadRecord).
    """
    def pause():
        output.flush()
        waiting()

    def copied():
        for number, line in Input(waiting=pause):
            output.write_lines(line + b"\n")
            yield number, line
    for _, record in records(copied(), report):
        yield record


def text(event: dict, name: str) -> str:
    """A field that may be bytes, or absent, as text."""
    try:
        value = job.get(event, name)
    except job.BadRecord:
        value = event.get(name)
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else "" if value is None else str(value)


def host_port(place: str, port: int, name: str) -> tuple[str, int]:
    """The host and the port of HOST[:PORT], [V6]:PORT or a bare V6; port where there is none. Raises Usage, naming it."""
    from libgm.gearman.address import parse_servers
    bare = place.count(":") == 0 or place.endswith("]")
    try:
        (host, found, tls), = parse_servers(f"{place}:{port}" if bare else place)
    except (Usage, ValueError):
        raise Usage(f"{name}: not HOST:PORT: {place!r}") from None
    if tls:
        raise Usage(f"{name}: no TLS here: {place!r}")
    return host, port if not bare and place.count(":") > 1 and "]" not in place else found


class Delivery:
    """Messages to a receiver, in order, by a thread of their own: put() does not wait for one that is away.

    transport: send(message) raises OSError where the receiver is away; unconfirmed() tells how many of the last messages
    sent are not known to have arrived (or raises OSError), and close() gives up the connection, after which those are sent
    again. What finds no room beside `kept` waiting messages is not delivered; only for a receiver that takes them fast
    is room waited for, so that a burst loses nothing.
    """

    def __init__(self, transport, say, kept: int = KEPT):
        self.transport, self.say, self.kept = transport, say, kept
        self.queue: collections.deque = collections.deque()    # not sent
        self.flying: collections.deque = collections.deque()   # sent, not known to have arrived
        self.count = self.crowded_out = 0
        self.trouble: str | None = None     # why the last attempt failed
        self.told = -QUIET                  # time.monotonic() when that was said
        self.slow = False                   # the receiver, until nothing waits for it any more
        self.ending = threading.Event()
        self.wake = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def put(self, message) -> None:
        self.count += 1
        if len(self.queue) >= self.kept and not self.room():
            self.crowded_out += 1
            return
        self.queue.append(message)
        self.wake.set()

    def room(self) -> bool:
        """Whether there is room again, having waited for a receiver that is there and fast."""
        until = time.monotonic() + PATIENCE
        while not self.slow and self.trouble is None and len(self.queue) > self.kept * 0.9:
            self.slow = time.monotonic() > until
            time.sleep(0.002)
        return len(self.queue) < self.kept

    def run(self) -> None:
        pause = PAUSE[0]
        while True:
            try:
                self.send()
                pause = PAUSE[0]
                if self.ending.is_set() and not self.queue and not self.flying:
                    self.transport.close()
                    return
            except OSError as error:
                self.failed(error)
                if self.ending.is_set():
                    return
                self.ending.wait(pause)
                pause = min(PAUSE[1], pause * 2)

    def send(self) -> None:
        """Send what waits; then wait a moment for more, or for news of what is under way. Raises OSError."""
        while self.queue:
            self.transport.send(self.queue[0])
            self.flying.append(self.queue.popleft())
            self.confirm()
            self.trouble = None
        self.slow = False
        self.wake.wait(0.02 if self.flying else None)
        self.wake.clear()
        self.confirm()

    def confirm(self) -> None:
        left = self.transport.unconfirmed() if self.flying else 0
        while len(self.flying) > left:
            self.flying.popleft()

    def failed(self, error: OSError) -> None:
        self.transport.close()
        self.queue.extendleft(reversed(self.flying))
        self.flying.clear()
        if self.trouble is None and not self.ending.is_set() and time.monotonic() >= self.told + QUIET:
            self.told = time.monotonic()
            self.say(f"{self.transport}: cannot deliver: {reason(error)}: keeping the next {self.kept} events")
        self.trouble = reason(error)

    def close(self) -> int:
        """Deliver what is left, as long as the receiver takes it; how many were not delivered, having said so."""
        self.ending.set()
        self.wake.set()
        now = time.monotonic()
        least, until, end = len(self.queue) + len(self.flying), now + LINGER, now + LONGEST
        while self.thread.is_alive() and now < min(until, end):
            self.thread.join(0.02)
            self.wake.set()
            now, left = time.monotonic(), len(self.queue) + len(self.flying)
            if left < least:
                least, until = left, now + LINGER
        lost = self.crowded_out + len(self.queue) + len(self.flying)
        if lost:
            self.say(f"{self.transport}: {lost} of {self.count} events not delivered: {self.trouble or 'no answer'}")
        return lost



def run(delivery: Delivery, message, report) -> bool:
    """Pass standard input through and deliver message(event) of each event, None for nothing; whether all went well."""
    bad = []

    def note(error):
        report(str(error))
        bad.append(1)
    output = Output()
    try:
        for event in through(output, note):
            made = message(event)
            if made is not None:
                delivery.put(made)
        output.close()
    except ReaderGone as error:
        note(f"{error}: stopping after {delivery.count} events")
    finally:
        lost = delivery.close()
    return not lost and not bad
