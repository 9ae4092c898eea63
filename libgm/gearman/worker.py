"""The worker's side of the wire: one job at a time from any of several servers."""

from __future__ import annotations

import collections
import time

from python3_gearman import protocol
from python3_gearman.worker import GearmanWorker
from python3_gearman.worker_handler import GearmanWorkerCommandHandler

from libgm.errors import Unavailable
from libgm.gearman.address import timeout
from libgm.gearman.connection import LIMIT, Refused, ServerLost
from libgm.gearman.manager import Backoff, Handler, Manager

SAFETY = 10.0   # seconds: an idle worker asks again this often, should a wake-up have been lost
AWAKE, GRABBING, DRY, ASLEEP = "awake", "grabbing", "dry", "asleep"   # dry: one grab of several found nothing
SUBMIT = {"high": protocol.GEARMAN_COMMAND_SUBMIT_JOB_HIGH_BG, "normal": protocol.GEARMAN_COMMAND_SUBMIT_JOB_BG,
          "low": protocol.GEARMAN_COMMAND_SUBMIT_JOB_LOW_BG}


class WorkerHandler(Handler, GearmanWorkerCommandHandler):
    """What one connection of a worker is at. The library's state machine sleeps after every job; this one grabs again."""

    def initial_state(self, abilities=None, client_id=None) -> None:
        self._handler_abilities = abilities
        self.state, self.since, self.grabs = AWAKE, time.monotonic(), 0
        self.created: collections.deque = collections.deque()
        self.send_command(protocol.GEARMAN_COMMAND_SET_CLIENT_ID, client_id=client_id)
        for function in abilities:
            self.send_command(protocol.GEARMAN_COMMAND_CAN_DO, task=function)

    def grab(self) -> None:
        self.state, self.since = GRABBING, time.monotonic()
        self.grabs += 1
        self.send_command(protocol.GEARMAN_COMMAND_GRAB_JOB_UNIQ)

    def recv_noop(self) -> None:
        if self.state == ASLEEP:
            self.state = AWAKE

    def recv_no_job(self) -> None:
        self.connection_manager.answered(self)
        self.grabs -= 1
        self.state, self.since = DRY, time.monotonic()
        if not self.grabs:
            self.state = ASLEEP
            self.send_command(protocol.GEARMAN_COMMAND_PRE_SLEEP)   # answered by NOOP at once where jobs have come

    def recv_job_assign_uniq(self, job_handle, task, unique, data) -> None:
        self.grabs, self.since = self.grabs - 1, time.monotonic()
        if not self.grabs:
            self.state = AWAKE
        self.connection_manager.assigned(self, job_handle, task, unique, data)

    def recv_job_created(self, job_handle) -> None:
        self.created.append(job_handle)

    def recv_error(self, error_code, error_text) -> None:
        self.created.append(Refused(error_code, error_text))


class Assigned:
    """A job that was handed to us: data is bytes, or the file that the worker's spool() made for a payload too large.

    Its answers raise ServerLost when its connection has gone, and it is .lost then.
    """

    __slots__ = ("worker", "handler", "handle", "function", "unique", "data", "server")

    def __init__(self, worker, handler, handle, function, unique, data):
        self.worker, self.handler, self.handle = worker, handler, handle
        self.function, self.unique, self.data = function, unique, data
        self.server = worker.handler_to_connection_map[handler].server

    @property
    def lost(self) -> bool:
        return self.handler not in self.worker.handler_to_connection_map

    @property
    def connection(self):
        if self.lost:
            raise ServerLost(f"{self.server}: connection lost")
        return self.worker.handler_to_connection_map[self.handler]

    def _send(self, command: int, *fields: bytes) -> None:
        self.connection.put(command, self.handle, *fields)

    def complete(self, result: bytes) -> None:
        """Deletes the job from the server; goes out with the next grab."""
        self._send(protocol.GEARMAN_COMMAND_WORK_COMPLETE, result)

    def fail(self) -> None:
        """Deletes the job from the server; goes out with the next grab."""
        self._send(protocol.GEARMAN_COMMAND_WORK_FAIL)

    def warning(self, data: bytes) -> None:
        self._send(protocol.GEARMAN_COMMAND_WORK_WARNING, data)

    def partial(self, data: bytes) -> None:
        self._send(protocol.GEARMAN_COMMAND_WORK_DATA, data)

    def status(self, numerator: int, denominator: int) -> None:
        self._send(protocol.GEARMAN_COMMAND_WORK_STATUS, b"%d" % numerator, b"%d" % denominator)

    def flush(self) -> None:
        self.worker.flush(self.connection)

    def resubmit(self, function: bytes, unique: bytes, data: bytes, priority: str = "normal") -> bytes:
        """Submit a background job where this one came from; its handle, when the server has it. Raises Refused, ServerLost."""
        connection = self.connection
        self.handler.created.clear()
        connection.put(SUBMIT[priority], function, unique, data)
        began = time.monotonic()
        while not self.handler.created:
            self.worker.step([connection], max(began, connection.moved) + timeout() - time.monotonic())
            if self.lost:
                raise ServerLost(f"{self.server}: connection lost")
            silent = time.monotonic() - max(began, connection.moved) > timeout()
            if silent and not self.handler.created and not connection.draining():
                error = ServerLost(f"{self.server}: no answer in {timeout():g} s")
                self.worker._drop(connection, error)
                raise error
        answer = self.handler.created.popleft()
        if isinstance(answer, Refused):
            raise answer
        return answer


class Worker(Manager, GearmanWorker):
    """A worker of one function over several servers; grabs are bounded by .window, one by default."""

    command_handler_class = WorkerHandler

    def __init__(self, servers: list, function: bytes, client_id: bytes, spool=None, limit: int = LIMIT):
        """spool, limit: as of wire.Connection."""
        super().__init__(servers)
        for connection in self.connection_list:
            connection.spool, connection.limit = spool, limit
        self.handler_initial_state = {"abilities": [function], "client_id": client_id}
        self.window = 1
        self.jobs: collections.deque = collections.deque()
        self.backoff = {connection: Backoff() for connection in self.connection_list}
        self.down: dict = {}        # connection -> text of its trouble
        self.news: list = []
        self.turn = 0

    @property
    def idle(self) -> bool:
        """Whether every server that can be reached has said that it has no job."""
        live = list(self.connection_to_handler_map.values())
        return bool(live) and not self.jobs and all(handler.state == ASLEEP for handler in live)

    def asking(self) -> bool:
        """Whether jobs are here that nobody has taken yet, or may be on their way."""
        return bool(self.jobs) or any(handler.grabs for handler in self.connection_to_handler_map.values())

    def connect(self) -> None:
        """Try every server once. Raises ServerLost where none can be reached."""
        for connection in self.connection_list:
            self._try(connection)
        if not self.connection_to_handler_map:
            news, self.news = self.news, []
            raise news[0]

    def ask_again(self) -> None:
        """Ask every server for a job, also one that has said that it has none: there are new ones."""
        for handler in self.connection_to_handler_map.values():
            if handler.state == ASLEEP:
                handler.state = AWAKE

    def problems(self) -> list:
        """What befell servers since the last call: each loss and each return once, as exceptions to be shown."""
        news, self.news = self.news, []
        return news

    def next(self, wait: float | None, wake=()) -> Assigned | None:
        """The next job; None after wait seconds (None: no limit), when a descriptor in wake is readable or there are
        problems() to tell, or with wait 0 when every server said that it has none."""
        until = None if wait is None else time.monotonic() + wait
        while True:
            if self.jobs:
                return self.jobs.popleft()
            self._reconnect()
            self._grab()
            now = time.monotonic()
            live = list(self.connection_to_handler_map.values())
            grabbing = any(handler.grabs for handler in live)
            if wait == 0:
                if self.idle:
                    return None
                if not live:
                    raise self.down_error()
                left = timeout()
            else:
                left = self._next_event(now)
                left = left if until is None else min(left, until - now)
            if left <= 0 and not grabbing and wait != 0:
                left = 0
            woken = self.step(list(self.connection_to_handler_map), max(0.0, left), wake)
            self._check_answers()
            if self.jobs:
                continue
            if woken or self.news or (wait and until is not None and time.monotonic() >= until):
                return None

    def ready(self) -> Assigned | None:
        """A job that has arrived already."""
        return self.jobs.popleft() if self.jobs else None

    def down_error(self) -> ServerLost:
        return next(iter(self.down.values()), None) or ServerLost("no server")

    def _next_event(self, now: float) -> float:
        """Seconds until a server must be tried, asked or given up."""
        times = [self.backoff[connection].at for connection in self.connection_list if not connection.connected]
        for connection, handler in self.connection_to_handler_map.items():
            times.append(max(handler.since, connection.moved) + timeout() if handler.grabs else handler.since + SAFETY)
        return max(0.001, min(times, default=now + SAFETY) - now)

    def _reconnect(self) -> None:
        now = time.monotonic()
        for connection in self.connection_list:
            if not connection.connected and self.backoff[connection].at <= now:
                self._try(connection)

    def _try(self, connection) -> None:
        began = time.monotonic()
        try:
            self.establish_connection(connection)
        except ServerLost as error:
            connection.close()
            self.lost(connection, error, time.monotonic() - began)

    def answered(self, handler) -> None:
        """A server that was in trouble has answered: only that tells that it is back."""
        connection = self.handler_to_connection_map[handler]
        if self.down.pop(connection, None):
            self.news.append(Unavailable(f"{connection.server}: connected again"))
            self.backoff[connection].worked()

    def lost(self, connection, error: ServerLost, cost: float = 0.0) -> None:
        """cost: seconds that the other servers' jobs had to wait for it."""
        self.backoff[connection].failed(cost if self.connection_to_handler_map else 0.0)
        if connection not in self.down:
            self.news.append(error)
        self.down[connection] = error

    def _grab(self) -> None:
        """Let grabs be outstanding up to the window, in turn over the servers that may have a job."""
        now = time.monotonic()
        handlers = [self.connection_to_handler_map[connection] for connection in self.connection_list
                    if connection in self.connection_to_handler_map]
        for handler in handlers:
            if handler.state == ASLEEP and now - handler.since >= SAFETY:
                handler.state = AWAKE
        free = self.window - len(self.jobs) - sum(handler.grabs for handler in handlers)
        ready = [handler for handler in handlers if handler.state in (AWAKE, GRABBING)]
        while free > 0 and ready:
            self.turn += 1
            ready[self.turn % len(ready)].grab()
            free -= 1

    def _check_answers(self) -> None:
        limit = timeout()
        for connection, handler in list(self.connection_to_handler_map.items()):
            if handler.grabs and time.monotonic() - max(handler.since, connection.moved) > limit:
                self.handle_error(connection)
                self.lost(connection, ServerLost(f"{connection.server}: no answer in {limit:g} s"), limit)

    def assigned(self, handler, handle, function, unique, data) -> None:
        self.answered(handler)
        self.backoff[self.handler_to_connection_map[handler]].worked()
        self.jobs.append(Assigned(self, handler, handle, function, unique, data))

    def ask(self) -> None:
        """Ask for a job now; soon() or next() has it when it comes."""
        self._grab()
        self.send()

    def soon(self, seconds: float) -> Assigned | None:
        """The next job, where a server has one at once; waits at most so long for what they say."""
        until = time.monotonic() + seconds
        self._grab()
        while not self.jobs and self.asking() and time.monotonic() < until:
            self.step(list(self.connection_to_handler_map), until - time.monotonic())
        return self.ready()

    def send(self) -> None:
        """Send what is to go out, as far as that goes at once."""
        for connection in list(self.connection_to_handler_map):
            if connection.writable():
                self.flush(connection)

    def attend(self, seconds: float, wake, receive: bool = True) -> list[int]:
        """Connect, ask for jobs, send and receive once, waiting at most so long; which descriptors of wake have woken us.

        What has arrived is in .jobs. receive: False where no more of them can be held.
        """
        self._reconnect()
        self._grab()
        woken = self.step(list(self.connection_to_handler_map), min(seconds, self._next_event(time.monotonic())), wake,
                          receive)
        if receive:
            self._check_answers()
        return woken

    def step(self, connections, seconds: float, wake=(), receive: bool = True) -> list[int]:
        """Send and receive once, waiting at most so long; which descriptors of wake have woken us."""
        self.send()
        connections = [connection for connection in connections if connection.connected]
        asked = connections if receive else [connection for connection in connections if connection.writable()]
        readable, writable, broken = self.poll_connections_once(asked, seconds, wake)
        if not receive:
            readable = ()
        self.handle_connection_activity(readable, writable, broken)
        for connection in connections:
            handler = self.connection_to_handler_map.get(connection)
            if handler and connection.writable():
                self.flush(connection)   # PRE_SLEEP
        return self.woken

    def flush(self, connection) -> None:
        try:
            connection.flush()
        except ServerLost as error:
            self._drop(connection, error)

    def release(self) -> None:
        """Give every job in hand back to its server, by closing the connections; answers are sent before."""
        self.drain(1.0)
        self.jobs.clear()
        for connection in list(self.connection_to_handler_map):
            connection.part()
            self.handle_error(connection)

    def drain(self, seconds: float) -> None:
        """See that answers are on their way before the connections are closed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for connection in list(self.connection_to_handler_map):
                self.flush(connection)
            busy = [connection for connection in self.connection_to_handler_map if connection.writable()]
            if not busy:
                return
            self.step(busy, until - time.monotonic())

    def close(self) -> None:
        for connection in self.connection_to_handler_map:
            connection.part()
        self.shutdown()
        self.connection_to_handler_map.clear()
        self.handler_to_connection_map.clear()
