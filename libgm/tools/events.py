"""The event filters: gm-work's events are printed through, and delivered elsewhere by a thread that never holds them up."""

from __future__ import annotations

import collections
import threading
import time

from libgm import job
from libgm.backoff import Backoff
from libgm.errors import Usage, reason
from libgm.shell.lines import Input, Output, ReaderGone, records
from libgm.shell.messages import warn

KEPT = 10000    # messages kept for a receiver that is away
PATIENCE = 1.0  # seconds in which a receiver must take a tenth of them, or it counts as slow
LINGER = 2.0    # seconds at the end without any message delivered
LONGEST = 60.0  # seconds at the end in all
PAUSE = (0.1, 5.0)   # seconds between attempts, the first and the longest
QUIET = 60.0         # seconds between two reports of a receiver that comes and goes


def through(output: Output, bad):
    """Yield each event of standard input, a dict, after writing its line to output.

    A line that is not a JSON object is written too; bad(BadRecord) is called for it.
    """
    def copied():
        for number, line in Input(waiting=output.flush):
            output.write_lines(line + b"\n")
            yield number, line
    for _, record in records(copied(), bad):
        yield record


def text(event: dict, name: str) -> str:
    """A field as text, whether it is bytes, of another type, or absent."""
    try:
        value = job.get(event, name)
    except job.BadRecord:
        value = event.get(name)
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else "" if value is None else str(value)


def host_port(place: str, port: int, name: str) -> tuple[str, int]:
    """The host and the port of HOST[:PORT], [V6]:PORT or a bare V6. port is the default. Raises Usage with name in it."""
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
    """Delivers messages in order by a thread of its own. put() does not wait for a receiver that is away.

    transport.send(message) raises OSError where the receiver is away. transport.unconfirmed() returns how many of the
    last messages may not have arrived, or raises OSError. transport.close() gives up the connection, after which those
    messages are sent again. At most `kept` messages wait. One that finds no room is not delivered; put() waits for
    room only while the receiver is fast, so that a burst loses nothing.
    """

    def __init__(self, transport, kept: int = KEPT):
        self.transport, self.kept = transport, kept
        self.queue: collections.deque = collections.deque()    # not sent
        self.flying: collections.deque = collections.deque()   # sent, not known to have arrived
        self.count = self.crowded_out = 0
        self.pause = Backoff(*PAUSE)
        self.trouble: str | None = None     # why the last attempt failed
        self.reported = -QUIET              # time.monotonic() of the last report
        self.slow = False                   # the receiver, until the queue is empty
        self.ending = threading.Event()
        self.wake = threading.Event()
        self.thread = threading.Thread(target=self.deliver, daemon=True)
        self.thread.start()

    def put(self, message) -> None:
        self.count += 1
        if len(self.queue) >= self.kept and not self.room():
            self.crowded_out += 1
            return
        self.queue.append(message)
        self.wake.set()

    def room(self) -> bool:
        """Wait for room while the receiver is fast; whether there is any."""
        until = time.monotonic() + PATIENCE
        while not self.slow and self.trouble is None and len(self.queue) > self.kept * 0.9:
            self.slow = time.monotonic() > until
            time.sleep(0.002)
        return len(self.queue) < self.kept

    def deliver(self) -> None:
        """Deliver until close() is called and nothing is left."""
        while True:
            try:
                self.send()
                self.pause.reset()
                if self.ending.is_set() and not self.queue and not self.flying:
                    self.transport.close()
                    return
            except OSError as error:
                self.failed(error)
                if self.ending.is_set():
                    return
                self.ending.wait(self.pause.next())

    def send(self) -> None:
        """Send the queue, then wait a moment for more messages or for confirmations. Raises OSError."""
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
        if self.trouble is None and not self.ending.is_set() and time.monotonic() >= self.reported + QUIET:
            self.reported = time.monotonic()
            warn(f"{self.transport}: cannot deliver: {reason(error)}: keeping the next {self.kept} events")
        self.trouble = reason(error)

    def close(self) -> int:
        """Deliver the rest for as long as the receiver takes it. Report and return how many messages were not delivered."""
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
            warn(f"{self.transport}: {lost} of {self.count} events not delivered: {self.trouble or 'no answer'}")
        return lost


def forward(transport, message, kept: int = KEPT) -> bool:
    """Print standard input through, and deliver message(event) of each event, unless it is None. Whether all went well."""
    delivery, output, bad = Delivery(transport, kept), Output(), []

    def note(error):
        warn(str(error))
        bad.append(error)
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
