"""Submitting jobs: pipelined with a bounded window, over several servers, resubmitting what was not acknowledged."""

from __future__ import annotations

import collections
import os
import time
from hashlib import blake2b

from python3_gearman import protocol
from python3_gearman.client import GearmanClient
from python3_gearman.client_handler import GearmanClientCommandHandler

from libgm.gearman.address import timeout
from libgm.gearman.connection import Refused, ServerLost
from libgm.gearman.manager import Backoff, Handler, Manager

WINDOW_BYTES = 8 << 20
GATHER = 0.001           # seconds: answers come one by one, and to wake for each would halve the speed
FLUSH_BYTES = 1 << 16    # queued before they are sent, or when the window is full, or when the caller waits
SILENCE = 2.0            # seconds without a result before one looks for workers
SUBMIT_EPOCH = 36        # which python3_gearman does not know
CREATED = protocol.GEARMAN_COMMAND_JOB_CREATED
COMMANDS = {(False, "high"): protocol.GEARMAN_COMMAND_SUBMIT_JOB_HIGH_BG, (False, "normal"): protocol.GEARMAN_COMMAND_SUBMIT_JOB_BG,
            (False, "low"): protocol.GEARMAN_COMMAND_SUBMIT_JOB_LOW_BG, (True, "high"): protocol.GEARMAN_COMMAND_SUBMIT_JOB_HIGH,
            (True, "normal"): protocol.GEARMAN_COMMAND_SUBMIT_JOB, (True, "low"): protocol.GEARMAN_COMMAND_SUBMIT_JOB_LOW}


class Request:
    """A submission under way."""

    __slots__ = ("item", "function", "unique", "data", "priority", "due", "began", "warning", "partial")

    def __init__(self, item, function, unique, data, priority, due=None):
        self.due = due
        self.item, self.function, self.unique, self.data, self.priority = item, function, unique, data, priority
        self.began, self.warning, self.partial = 0.0, b"", []


class ClientHandler(Handler, GearmanClientCommandHandler):
    """What one connection has outstanding: submissions in their order, and jobs by handle where results are waited for."""

    def initial_state(self) -> None:
        self.pending: collections.deque = collections.deque()
        self.running: dict[bytes, list[Request]] = {}
        self.heard = time.monotonic()

    def fetch_commands(self) -> None:
        manager, pending = self.connection_manager, self.pending
        connection = manager.handler_to_connection_map[self]
        self.heard = time.monotonic()
        for kind, arguments in iter(connection.read_command, None):
            if kind == CREATED and pending:
                manager.created(connection, self, pending.popleft(), arguments["job_handle"])
            else:
                self.take(kind, arguments)

    def on_io_error(self) -> None:
        for request in self.pending:
            self.connection_manager.orphan(request)
        for requests in self.running.values():
            for request in requests:
                self.connection_manager.orphan(request)

    def recv_job_created(self, job_handle) -> None:
        self.connection_manager.handler_to_connection_map[self].lose("acknowledged a job that nobody submitted")

    def recv_error(self, error_code, error_text) -> None:
        if self.pending:
            self.connection_manager.refused(self.pending.popleft(), Refused(error_code, error_text))

    def recv_work_data(self, job_handle, data) -> None:
        for request in self.running.get(job_handle, ()):
            request.partial.append(data)

    def recv_work_warning(self, job_handle, data) -> None:
        for request in self.running.get(job_handle, ()):
            request.warning = data

    recv_work_exception = recv_work_warning

    def recv_work_status(self, job_handle, numerator, denominator) -> None:
        pass

    def recv_work_complete(self, job_handle, data) -> None:
        self._ended(job_handle, True, data)

    def recv_work_fail(self, job_handle) -> None:
        self._ended(job_handle, False, b"")

    def _ended(self, handle: bytes, ok: bool, data: bytes) -> None:
        for request in self.running.pop(handle, ()):
            self.connection_manager.ended(request, ok, b"".join(request.partial) + data)


class Submitter(Manager, GearmanClient):
    """Submits background jobs, or with wait=True foreground ones whose results it reports.

    on_accept(item, handle, server), on_refuse(item, Refused), and with wait on_result(item, ok, result, warning,
    seconds). A given unique goes to the same server while that is up (rendezvous hashing): gearmand merges equal
    uniques within one server only. Raises ServerLost where no server can be had; what on_accept has seen is safe.
    """

    command_handler_class = ClientHandler

    def __init__(self, servers: list, wait: bool = False, window: int = 1000, on_accept=lambda *_: None,
                 on_refuse=lambda *_: None, on_result=lambda *_: None):
        super().__init__(servers)
        self.silent_at = time.monotonic() + SILENCE if wait else None   # None: nothing is to be told any more
        self.wait, self.window = wait, window
        self.on_accept, self.on_refuse, self.on_result = on_accept, on_refuse, on_result
        self.outstanding = self.bytes = self.unsent = 0
        self.salts = {connection: blake2b(os.fsencode(str(connection.server))).digest()
                      for connection in self.connection_list}
        self.orphans: collections.deque = collections.deque()
        self.backoff = {connection: Backoff() for connection in self.connection_list}
        self.last_error: ServerLost | None = None
        self.trouble: float | None = None    # time.monotonic() of the first loss since a server answered

    def submit(self, function: bytes, unique: bytes, data: bytes, priority: str, item, due: int | None = None) -> None:
        """Queue a submission; blocks first while the window is full. Raises ServerLost.

        due: epoch seconds from which gearmand hands it out, at normal priority; for jobs that others have delayed there.
        """
        if self.outstanding >= self.window or (self.outstanding and self.bytes + len(data) > WINDOW_BYTES):
            while self.outstanding > self.window // 2 or self.bytes > WINDOW_BYTES // 2:
                self.pump(None)
                if not self.wait:
                    time.sleep(GATHER)
        request = Request(item, function, unique, data, priority, due)
        if self.silent_at is not None and not self.outstanding:
            self.silent_at = time.monotonic() + SILENCE   # nothing was waited for meanwhile
        self.outstanding += 1
        self.bytes += len(data)
        self._send(request)
        if self.unsent >= FLUSH_BYTES:
            self.pump(0.0)

    def finish(self) -> None:
        """Until everything is acknowledged (with wait: ended). Raises ServerLost."""
        while self.outstanding:
            self.pump(None)

    def _send(self, request: Request) -> None:
        connection = self._choose(request.unique)
        handler = self.connection_to_handler_map[connection]
        if not handler.pending:
            handler.heard = time.monotonic()
        if self.wait and not request.began:
            request.began = time.monotonic()
        if request.due is not None and not self.wait and request.due > time.time():
            connection.put(SUBMIT_EPOCH, request.function, request.unique, b"%d" % request.due, request.data)
        else:
            connection.put(COMMANDS[self.wait, request.priority], request.function, request.unique, request.data)
        handler.pending.append(request)
        self.unsent += len(request.data) + 100

    def _choose(self, unique: bytes):
        """The connected server that the unique belongs to. Raises ServerLost."""
        if len(self.connection_list) == 1:
            connection = self.connection_list[0]
            if connection.connected or self._try(connection):
                return connection
        else:
            for connection in sorted(self.connection_list, reverse=True, key=lambda each: blake2b(
                    unique, key=self.salts[each], digest_size=8).digest()):
                if connection.connected or self._try(connection):
                    return connection
        return self._wait_for_any()

    def _try(self, connection) -> bool:
        if self.backoff[connection].at > time.monotonic():
            return False
        try:
            self.establish_connection(connection)
        except ServerLost as error:
            connection.close()
            self.last_error = error
            self.backoff[connection].failed()
            return False
        return True

    def _wait_for_any(self):
        """No server is up: wait for one as long as a server that restarts may take. Raises ServerLost."""
        while self.trouble is not None and time.monotonic() < self.trouble + timeout():
            until = min(self.trouble + timeout(), *(backoff.at for backoff in self.backoff.values()))
            time.sleep(max(0.0, until - time.monotonic()))
            for connection in self.connection_list:
                if connection.connected or self._try(connection):
                    return connection
        raise self.last_error

    def pump(self, wait: float | None) -> None:
        """Send, receive, and send again what was orphaned; waits at most wait seconds, None for something to happen."""
        while self.orphans:
            self._send(self.orphans[0])
            self.orphans.popleft()
        self.unsent = 0
        limit, before = timeout(), self.outstanding
        for connection, handler in list(self.connection_to_handler_map.items()):
            handler.fetch_commands()   # what an exception from a callback left
        live = [connection for connection in self.connection_list if connection.connected]
        for connection in live:
            try:
                connection.flush()
            except ServerLost as error:
                self._drop(connection, error)
        if wait is None:
            wait = limit if self.outstanding == before else 0.0
        if self.silent_at is not None:
            wait = min(wait, self.break_silence())
        readable, writable, _ = self.poll_connections_once(live, wait)
        self.handle_connection_activity(readable, writable, ())
        for connection in live:
            handler = self.connection_to_handler_map.get(connection)
            heard = max(handler.heard, connection.moved) if handler and handler.pending else time.monotonic()
            if time.monotonic() - heard > limit and not connection.draining():
                self.trouble = self.trouble or heard
                self.backoff[connection].pause = max(1.0, self.backoff[connection].pause)
                self._drop(connection, ServerLost(f"{connection.server}: no answer in {limit:g} s"))

    def break_silence(self) -> float:
        """Tell once of a wait that may have no end; the seconds until that is due."""
        left = self.silent_at - time.monotonic()
        if left > 0:
            return left
        waited = {(connection.server, request.function) for connection, handler in self.connection_to_handler_map.items()
                  for requests in handler.running.values() for request in requests}
        if not waited:
            self.silent_at = time.monotonic() + SILENCE
            return SILENCE
        self.silent_at = None
        from libgm.gearman import admin
        admin.tell(waited)
        return 0.0

    def lost(self, connection, error: ServerLost) -> None:
        self.last_error = error
        self.trouble = self.trouble or time.monotonic()
        self.backoff[connection].failed()

    def answered(self, connection) -> None:
        """It has taken a job: whatever the trouble was, it is over."""
        if self.trouble is not None:
            self.trouble = None
            self.backoff[connection].worked()

    def orphan(self, request: Request) -> None:
        """Its connection has gone before it was done with: it is sent again, under the same unique."""
        request.partial = []
        self.orphans.append(request)

    def created(self, connection, handler: ClientHandler, request: Request, handle: bytes) -> None:
        self.answered(connection)
        if self.wait:
            handler.running.setdefault(handle, []).append(request)
        else:
            self.outstanding -= 1
            self.bytes -= len(request.data)
        self.on_accept(request.item, handle, connection.server)

    def refused(self, request: Request, error: Refused) -> None:
        self.outstanding -= 1
        self.bytes -= len(request.data)
        self.on_refuse(request.item, error)

    def ended(self, request: Request, ok: bool, result: bytes) -> None:
        self.outstanding -= 1
        self.bytes -= len(request.data)
        if self.silent_at is not None:
            self.silent_at = time.monotonic() + SILENCE
        self.on_result(request.item, ok, result, request.warning, time.monotonic() - request.began)

    def close(self) -> None:
        self.shutdown()
