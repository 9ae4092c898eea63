"""A job in a worker's hand."""

from __future__ import annotations

from libgm import job, wire
from libgm.wire import Header


class Attempt:
    """A job in hand: what came over the wire, and what it is (gm-delivery(7), rules 1 and 5).

    run: its number among the worker's runs. unique, header, data: the job's own unique, what gearmang knows of it, its
    payload. spool: the file of a payload too large for memory, or None. before: attempts before this one, those that never
    reported included. start_at: time.monotonic() before which it may not be begun. lost: a worker died of it, perhaps, so that
    it may run only while no other such job runs on the machine; None before that is known. offset: of its line, in pipe mode.
    known: whether it came with a key.
    """

    __slots__ = ("assigned", "run", "spool", "identity", "unique", "header", "data", "before", "waited", "server", "handle",
                 "start_at", "lost", "offset", "known")

    def __init__(self, assigned, run: int, foreground: bool):
        self.assigned, self.run = assigned, run
        self.unique: bytes
        self.header: Header
        if isinstance(assigned.data, bytes):
            self.spool = None
            self.unique, self.header, self.data = wire.unpack(assigned.function, assigned.unique, assigned.data)
            self.identity = job.identity(assigned.function, assigned.unique, assigned.data)
        else:
            self.spool = assigned.data
            self.unique, self.header, self.data = self.spool.own, self.spool.header, b""
            self.identity = job.identity(assigned.function, assigned.unique, self.spool.digest.encode())
        self.before, self.known = self.header.attempts, self.header.key != 0
        self.waited = foreground or self.header.waited
        self.server, self.handle = str(assigned.server), assigned.handle.decode("utf-8", "replace")
        self.start_at, self.offset = 0.0, 0
        self.lost: bool | None = None
