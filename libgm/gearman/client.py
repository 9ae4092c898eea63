"""Submitting jobs: pipelined with a bounded window, over several servers, resubmitting what was not acknowledged."""

from __future__ import annotations

import collections
import os
import time
from hashlib import blake2b

from python3_gearman import protocol
from python3_gearman.client import GearmanClient
from python3_gearman.client_handler import GearmanClientCommandHandler

from libgm.gearman.connection import Connection, Refused, ServerLost
from libgm.gearman.manager import BACKGROUND, FOREGROUND, Handler, Manager
from libgm.shell.messages import warn

WINDOW_BYTES = 8 << 20
GATHER = 0.001           # seconds: answers come one by one, and to wake for each would halve the speed
FLUSH_BYTES = 1 << 16    # queued before they are sent, or when the window is full, or when the caller waits
QUIET = 2.0              # seconds without a result before the client looks for workers
SUBMIT_EPOCH = 36        # which python3_gearman does not know
CREATED = protocol.GEARMAN_COMMAND_JOB_CREATED


class Request:
    """A submission under way."""

    __slots__ = ("item", "name", "function", "unique", "data", "priority", "due", "began", "warning", "partial")

    def __init__(self, item, name, function, unique, data, priority, due):
        self.item, self.name, self.due = item, name, due
        self.function, self.unique, self.data, self.priority = function, unique, data, priority
        self.began, self.warning, self.partial = 0.0, b"", []


class ClientHandler(Handler, GearmanClientCommandHandler):
    """What one connection has outstanding: submissions in their order, and jobs by handle where results are waited for."""

    def initial_state(self) -> None:
        super().initial_state()
        self.pending: collections.deque = collections.deque()
        self.running: dict[bytes, list[Request]] = {}
        if self.connection_manager.wait:   # else gearmand turns an exception into a failure without its text
            self.connection.put(protocol.GEARMAN_COMMAND_OPTION_REQ, b"exceptions")

    def owes(self) -> bool:
        return bool(self.pending)

    def fetch_commands(self) -> None:
        manager, pending, connection = self.connection_manager, self.pending, self.connection
        first = True
        for kind, arguments in iter(connection.read_command, None):
            if kind == CREATED and pending:
                if first:
                    connection.expect()
                    first = False
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
        self.connection.lose("acknowledged a job that nobody submitted")

    def recv_option_res(self, option_name) -> None:
        pass

    def recv_error(self, error_code, error_text) -> None:
        error = Refused(error_code, error_text)
        if b"option" in error_code.lower():
            return   # it knows no exceptions, and takes jobs all the same
        if not self.pending:
            warn(f"{self.connection.server}: {error}")
            return
        self.connection.expect()
        self.connection_manager.refused(self.pending.popleft(), error)

    def recv_work_data(self, job_handle, data) -> None:
        for request in self.running.get(job_handle, ()):
            request.partial.append(data)

    def recv_work_warning(self, job_handle, data) -> None:
        for request in self.running.get(job_handle, ()):
            request.warning = data

    def recv_work_status(self, job_handle, numerator, denominator) -> None:
        pass

    def recv_work_complete(self, job_handle, data) -> None:
        self._ended(job_handle, True, data)

    def recv_work_fail(self, job_handle) -> None:
        self._ended(job_handle.partition(b"\0")[0], False, b"")   # gearmand: an exception for a client that asked for none

    def recv_work_exception(self, job_handle, data) -> None:
        if data:
            self.recv_work_warning(job_handle, data)
        self._ended(job_handle, False, b"")   # where a WORK_FAIL follows it comes too late

    def _ended(self, handle: bytes, ok: bool, data: bytes) -> None:
        for request in self.running.pop(handle, ()):
            self.connection_manager.ended(request, ok, b"".join(request.partial) + data)


class Submitter(Manager, GearmanClient):
    """Submits background jobs, or with wait=True foreground ones whose results it reports.

    on_accept(item, handle, server), on_refuse(item, Refused), and with wait on_result(item, ok, result, warning,
    seconds); the last warning of a job that failed is the reason, an exception's text among them. Raises ServerLost where
    no server can be had; what on_accept has seen is safe.
    """

    command_handler_class = ClientHandler

    def __init__(self, servers: list, wait: bool = False, window: int = 1000, on_accept=lambda *_: None,
                 on_refuse=lambda *_: None, on_result=lambda *_: None):
        super().__init__(servers)
        self.quiet_at = time.monotonic() + QUIET if wait else None   # when to look for workers; None: not any more
        self.wait, self.window = wait, window
        self.commands = FOREGROUND if wait else BACKGROUND
        self.on_accept, self.on_refuse, self.on_result = on_accept, on_refuse, on_result
        self.outstanding = self.bytes = self.unsent = 0
        self.salts = {connection: blake2b(os.fsencode(str(connection.server))).digest()
                      for connection in self.connection_list}
        self.orphans: collections.deque = collections.deque()
        self.last_error: ServerLost | None = None
        self.trouble: float | None = None    # time.monotonic() of the first loss since a server answered

    def submit(self, function: bytes, unique: bytes, data: bytes, priority: str, item, due: int | None = None,
               name: bytes | None = None) -> None:
        """Queue a submission; blocks first while the window is full. Raises ServerLost.

        due: epoch seconds from which gearmand hands it out, at normal priority; for jobs that others have delayed there.
        Of several servers a name, by default the unique, keeps to one while that is up (rendezvous hashing), since gearmand
        merges equal uniques within one server only.
        """
        if self.outstanding >= self.window or (self.outstanding and self.bytes + len(data) > WINDOW_BYTES):
            while self.outstanding > self.window // 2 or self.bytes > WINDOW_BYTES // 2:
                self.pump(None)
                if not self.wait:
                    time.sleep(GATHER)
        request = Request(item, unique if name is None else name, function, unique, data, priority, due)
        if self.quiet_at is not None and not self.outstanding:
            self.quiet_at = time.monotonic() + QUIET   # nothing was waited for meanwhile
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
        connection = self._choose(request.name)
        handler = self.connection_to_handler_map[connection]
        if not handler.pending:
            connection.expect()
        if self.wait and not request.began:
            request.began = time.monotonic()
        if request.due is not None and not self.wait and request.due > time.time():
            connection.put(SUBMIT_EPOCH, request.function, request.unique, b"%d" % request.due, request.data)
        else:
            connection.put(self.commands[request.priority], request.function, request.unique, request.data)
        handler.pending.append(request)
        self.unsent += len(request.data) + 100

    def _choose(self, name: bytes) -> Connection:
        """The connected server that the name belongs to. Raises ServerLost."""
        connections = self.connection_list
        if len(connections) > 1:
            connections = sorted(connections, reverse=True, key=lambda each: blake2b(
                name, key=self.salts[each], digest_size=8).digest())
        for connection in connections:
            if self.attempt(connection):
                return connection
        return self._wait_for_any()

    def _wait_for_any(self) -> Connection:
        """No server is up: wait for one as long as a server that restarts may take. Raises ServerLost."""
        while self.trouble is not None and time.monotonic() < self.trouble + self.timeout:
            until = min(self.trouble + self.timeout, *(recovery.retry_at for recovery in self.recovery.values()))
            time.sleep(max(0.0, until - time.monotonic()))
            for connection in self.connection_list:
                if self.attempt(connection):
                    return connection
        raise self.last_error or ServerLost("no server")

    def pump(self, wait: float | None) -> None:
        """Send, receive, and send again what was orphaned; waits at most wait seconds, None for something to happen."""
        while self.orphans:
            self._send(self.orphans[0])
            self.orphans.popleft()
        self.unsent = 0
        before = self.outstanding
        for handler in list(self.handler_to_connection_map):
            handler.fetch_commands()   # what an exception from a callback left
        live = [connection for connection in self.connection_list if connection.connected]
        for connection in live:
            self.flush(connection)
        left = self.patience()
        if wait is None:
            wait = left if self.outstanding == before else 0.0
        if self.quiet_at is not None:
            wait = min(wait, self._look_for_workers(self.quiet_at))
        readable, writable, _ = self.poll_connections_once(live, min(wait, left))
        self.handle_connection_activity(readable, writable, ())
        self.drop_silent(live)

    def _look_for_workers(self, quiet_at: float) -> float:
        """Warn once when nobody works what is waited for; seconds until that is due."""
        if time.monotonic() < quiet_at:
            return quiet_at - time.monotonic()
        waited = {(connection.server, request.function) for connection, handler in self.connection_to_handler_map.items()
                  for requests in handler.running.values() for request in requests}
        if not waited:
            self.quiet_at = time.monotonic() + QUIET
            return QUIET
        self.quiet_at = None
        from libgm.gearman import admin
        admin.warn_without_worker(waited)
        return 0.0

    def drop(self, connection: Connection, error: ServerLost, cost: float = 0.0) -> None:
        if self.trouble is None:
            self.trouble = time.monotonic() - cost
        super().drop(connection, error, cost)

    def lost(self, connection: Connection, error: ServerLost, cost: float) -> bool:
        self.last_error = error
        return super().lost(connection, error, cost)

    def orphan(self, request: Request) -> None:
        """Its connection has gone before it was done with: it is sent again, under the same unique."""
        request.partial = []
        self.orphans.append(request)

    def created(self, connection: Connection, handler: ClientHandler, request: Request, handle: bytes) -> None:
        if self.trouble is not None or handler.recovery.error:
            self.trouble = None
            handler.recovery.answered()
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
        if self.quiet_at is not None:
            self.quiet_at = time.monotonic() + QUIET
        self.on_result(request.item, ok, result, request.warning, time.monotonic() - request.began)

    def close(self) -> None:
        self.shutdown()
