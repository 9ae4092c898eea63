"""What a worker tells: an event per finished attempt, for its parent to print, and a line on stderr per failure."""

from __future__ import annotations

import os
import time
from functools import lru_cache

from libgm import job
from libgm.shell.lines import dump
from libgm.shell.messages import warn
from libgm.units import iso
from libgm.worker.outcome import Outcome
from libgm.worker.protocol import field, quoted

HOST = os.uname().nodename
iso_second = lru_cache(8)(iso)
NEXT = {"retry": "tried again", "dead": "quarantined", "release": "given back", "hold": "held"}


class Reporter:
    """Where a worker's events go. fd: the pipe to its parent."""

    def __init__(self, settings, fd: int):
        self.fd, self.tries = fd, settings.tries
        self.function = settings.function.decode("utf-8", "replace")
        function, host = (text.replace("%", "%%") for text in (field("function", settings.function), quoted(HOST)))
        self.done = ('{"event":"done","time":"%s",' + function + ',%s,"handle":%s,"attempts":%d,"duration":%r,"exit":%s,'
                     '"signal":null,"reason":null,"error":null,"worker":' + str(os.getpid()) + ',"host":' + host +
                     ',"server":"%s","extra":{}}\n')   # the event of nearly every job, as dump() writes it

    def emit(self, event: str, attempt, attempts: int, outcome: Outcome, reason=None, error=None, delay=None) -> None:
        """Tell of an attempt that failed or was given back. attempts: that count. delay: seconds until it is tried again."""
        self.tell(self.event(event, attempt, attempts, outcome, reason, error))
        if event == "hold":
            return   # the parent sums these up
        then = "its client is told" if event == "drop" and attempt.waited else NEXT.get(event, "dropped")
        number = attempts + (event == "release")   # the attempt that is given back does not count
        warn(f"{self.function}: {attempt.handle}: attempt {number} of {self.tries}: {error}: {then}"
             + (f" in {delay:.3g} s" if delay else ""))

    def event(self, event: str, attempt, attempts: int, outcome: Outcome, reason=None, error=None) -> bytes:
        """An event as its line."""
        if event == "done" and not outcome.extra:
            line = self.done % (iso_second(int(time.time())), field("unique", attempt.unique), quoted(attempt.handle), attempts,
                                round(outcome.duration, 6), "null" if outcome.exit is None else outcome.exit, attempt.server)
            return line.encode()
        found: dict = {"event": event, "time": iso(time.time())}
        job.put(found, "function", attempt.assigned.function)
        job.put(found, "unique", attempt.unique)
        found.update(handle=attempt.handle, attempts=attempts, duration=round(outcome.duration, 6), exit=outcome.exit,
                     signal=outcome.signal, reason=reason, error=error, worker=os.getpid(),
                     host=HOST, server=attempt.server, extra=outcome.extra)
        return dump(found)

    def tell(self, *events: bytes) -> None:
        """Pass events on to the parent."""
        data = b"".join(events)
        try:
            while data:
                data = data[os.write(self.fd, data):]
        except BrokenPipeError:
            pass   # the parent is dead; the loop sees that
