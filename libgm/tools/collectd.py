"""Queue lengths and worker counts as lines for collectd's exec plugin (collectd-exec(5), the plain text protocol)."""

from __future__ import annotations

import time

from libgm import job
from libgm.errors import Unavailable
from libgm.quarantine.file import Store
from libgm.shell.lines import unsafe
from libgm.tools import status

LONGEST = 100   # characters of an escaped function: collectd takes 127 bytes for a plugin and its instance
QUEUE = status.COUNTS
FILE = ("delayed", "dead")


def instance(function: bytes) -> str:
    """The function as a plugin instance: what would break an identifier or a file's name as %xx."""
    name = "".join(char if char not in '/"\\%' and not unsafe(ord(char)) else
                   "".join(f"%{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
                   for char in function.decode("utf-8", "surrogateescape"))
    if len(name.encode()) <= LONGEST:
        return name
    return name.encode()[:LONGEST - 9].decode("utf-8", "ignore") + "~" + job.digest(4, function)


class Gauges:
    """The values of one round after the other. say(text) is called when something breaks, once, and when that changes."""

    def __init__(self, servers: list, path: str, host: str, interval: float, say):
        self.servers, self.path, self.host, self.interval, self.say = servers, path, host, interval, say
        self.known: set[bytes] = set()   # functions once seen: what has none left is 0, not unknown
        self.trouble: list[str] = []

    def round(self) -> bytes:
        """The lines of now; of what cannot be had, none."""
        trouble: list[str] = []
        found = status.queues(self.servers, lambda error: trouble.append(str(error)))
        rows, kinds = status.functions(found), QUEUE if found else ()
        try:
            store = self.store()
            rows = status.add_quarantine(rows, store) if store else rows
            kinds += FILE
        except Unavailable as error:
            trouble.append(str(error))
        for text in trouble:
            if text not in self.trouble:
                self.say(text)
        if self.trouble and not trouble:
            self.say("all is back")
        self.trouble = trouble
        counts = {row["function"]: row for row in rows}
        self.known |= set(counts)
        return "".join(self.line(function, kind, counts[function][kind] if function in counts else 0)
                       for function in sorted(self.known) for kind in kinds).encode("utf-8", "replace")

    def store(self) -> Store | None:
        """The quarantine file, which may come and go; None where there is none yet."""
        import os
        if not os.path.exists(self.path):
            return None
        return Store(self.path, readonly=True, busy=max(1.0, self.interval / 2))

    def line(self, function: bytes, kind: str, value: int) -> str:
        return f'PUTVAL "{self.host}/gearmang-{instance(function)}/gauge-{kind}" interval={self.interval:g} N:{value}\n'


def run(gauges: Gauges, output, stopping) -> None:
    """Print a round each interval until a signal of `stopping` arrives, or the reader goes away, which is seen at once.

    Raises ReaderGone, Error.
    """
    import select
    poll = select.poll()
    poll.register(stopping.fd, select.POLLIN)
    poll.register(output.fd, 0)
    due = time.monotonic()
    while not stopping.count():
        output.write(gauges.round())
        output.flush()
        due = max(due + gauges.interval, time.monotonic())
        if any(fd == output.fd for fd, _ in poll.poll(max(0.0, due - time.monotonic()) * 1000)):
            return
