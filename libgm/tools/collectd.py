"""gm-collectd: queue lengths and worker counts for collectd's exec plugin (collectd-exec(5), the plain text protocol)."""

from __future__ import annotations

import os
import select
import time

from libgm import job
from libgm.errors import Unavailable
from libgm.quarantine.file import Store
from libgm.shell.lines import Output, unsafe
from libgm.shell.messages import tell_news
from libgm.tools import status

LONGEST = 100   # characters of an escaped function: collectd takes 127 bytes for a plugin and its instance


def instance(function: bytes) -> str:
    """A function as a plugin instance: %xx stands for what would break an identifier or a file's name."""
    name = "".join(char if char not in '/"\\%' and not unsafe(ord(char)) else
                   "".join(f"%{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
                   for char in function.decode("utf-8", "surrogateescape"))
    if len(name.encode()) <= LONGEST:
        return name
    return name.encode()[:LONGEST - 9].decode("utf-8", "ignore") + "~" + job.digest(4, function)


class Gauges:
    """The values of one round after the other. Each trouble is reported once, and its end."""

    def __init__(self, servers: list, path: str, host: str, interval: float):
        self.servers, self.path, self.host, self.interval = servers, path, host, interval
        self.known: set[bytes] = set()   # functions once seen: what has none left is 0, not unknown
        self.trouble: list[str] = []

    def round(self) -> bytes:
        """The lines of one interval; none for a value that cannot be had."""
        found, problems = status.queues(self.servers)
        rows = status.functions(found)
        kinds: tuple[str, ...] = status.COUNTS if found else ()
        try:
            if os.path.exists(self.path):   # it may come and go
                rows = self.with_quarantine(rows)
            kinds += status.KEPT
        except Unavailable as error:
            problems.append(error)
        self.trouble = tell_news(problems, self.trouble, "all servers and the quarantine file answer again")
        counts = {row["function"]: row for row in rows}
        self.known |= set(counts)
        return "".join(self.line(function, kind, counts[function][kind] if function in counts else 0)
                       for function in sorted(self.known) for kind in kinds).encode("utf-8", "replace")

    def with_quarantine(self, rows: list[dict]) -> list[dict]:
        store = Store(self.path, readonly=True, busy=max(1.0, self.interval / 2))
        try:
            return status.add_quarantine(rows, store)
        finally:
            store.close()

    def line(self, function: bytes, kind: str, value: int) -> str:
        return f'PUTVAL "{self.host}/gearmang-{instance(function)}/gauge-{kind}" interval={self.interval:g} N:{value}\n'


def print_rounds(gauges: Gauges, output: Output, stopping) -> None:
    """Print a round each interval until stopping.set, or until the reader exits. Raises ReaderGone, Error."""
    poll = select.poll()
    poll.register(stopping.fd, select.POLLIN)
    poll.register(output.fd, 0)   # for the end of its reader, also while there is nothing to print
    due = time.monotonic()
    while not stopping.count():
        output.write(gauges.round())
        output.flush()
        due = max(due + gauges.interval, time.monotonic())
        if any(fd == output.fd for fd, _ in poll.poll(max(0.0, due - time.monotonic()) * 1000)):
            return
