"""A job in hand: what its server sent, and the way back for its answer."""

from __future__ import annotations

from python3_gearman import protocol

from libgm.gearman.address import Server
from libgm.gearman.connection import Connection, Refused, ServerLost
from libgm.gearman.manager import BACKGROUND


class Assigned:
    """A job that a server handed out; data is bytes, or the file that spool() made for a payload too large.

    Answers are queued, and sent with the worker's next step, or by flush() or drain(). They raise ServerLost when the
    connection has gone: the job is .lost then, and its server hands it out again.
    """

    __slots__ = ("worker", "handler", "handle", "function", "unique", "data", "server")

    def __init__(self, worker, handler, handle: bytes, function: bytes, unique: bytes, data):
        self.worker, self.handler, self.handle = worker, handler, handle
        self.function, self.unique, self.data = function, unique, data
        self.server: Server = handler.connection.server

    @property
    def lost(self) -> bool:
        return self.handler not in self.worker.handler_to_connection_map

    @property
    def connection(self) -> Connection:
        if self.handler not in self.worker.handler_to_connection_map:
            raise ServerLost(f"{self.server}: connection lost")
        return self.handler.connection

    # ---- answers

    def complete(self, result: bytes) -> None:
        """Done: the server deletes the job."""
        self.connection.put(protocol.GEARMAN_COMMAND_WORK_COMPLETE, self.handle, result)

    def fail(self) -> None:
        """Failed: the server deletes the job."""
        self.connection.put(protocol.GEARMAN_COMMAND_WORK_FAIL, self.handle)

    def warning(self, data: bytes) -> None:
        self.connection.put(protocol.GEARMAN_COMMAND_WORK_WARNING, self.handle, data)

    def partial(self, data: bytes) -> None:
        self.connection.put(protocol.GEARMAN_COMMAND_WORK_DATA, self.handle, data)

    def status(self, numerator: int, denominator: int) -> None:
        self.connection.put(protocol.GEARMAN_COMMAND_WORK_STATUS, self.handle, b"%d" % numerator, b"%d" % denominator)

    # ---- its connection

    def flush(self) -> None:
        """Send what is queued, as far as that goes at once."""
        self.worker.flush(self.connection)

    def drain(self, seconds: float | None = None, until=lambda: None) -> bool:
        """Send what is queued to its end, as Worker.drain() does."""
        return self.worker.drain(seconds, until, [self.connection])

    def release(self, until=lambda: None) -> None:
        """Give the jobs of this connection back to its server, as Worker.release() does; nothing where it is lost."""
        if not self.lost:
            self.worker.release(until, [self.connection])

    def resubmit(self, function: bytes, unique: bytes, data: bytes, priority: str = "normal") -> bytes:
        """Submit a background job where this one came from; its handle, when the server has it. Raises Refused, ServerLost."""
        connection, handler = self.connection, self.handler
        if not handler.owes():
            connection.expect()
        handler.submitting, handler.created = True, None
        connection.put(BACKGROUND[priority], function, unique, data)
        while handler.created is None:
            self.worker.step([connection], max(0.0, connection.patience(self.worker.timeout)))
            self.worker.drop_silent([connection])
            if self.lost:
                break
        handler.submitting = False
        if handler.created is None:
            raise handler.recovery.error or ServerLost(f"{self.server}: connection lost")
        if isinstance(handler.created, Refused):
            raise handler.created
        return handler.created
