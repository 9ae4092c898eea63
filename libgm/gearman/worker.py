"""The worker's side: jobs of one function from any of several servers."""

from __future__ import annotations

import collections
import time

from python3_gearman import protocol
from python3_gearman.worker import GearmanWorker
from python3_gearman.worker_handler import GearmanWorkerCommandHandler

from libgm.gearman.assigned import Assigned
from libgm.gearman.connection import LIMIT, Connection, Refused, ServerLost
from libgm.gearman.manager import Handler, Manager
from libgm.shell.messages import warn

SAFETY = 10.0   # seconds: an idle worker asks again this often, should a wake-up have been lost
SLOW = 1.0      # seconds that an answer may take before the other servers are asked too
STEP = 0.05     # seconds between two looks at whether to stop sending
OF_ANSWERS = {b"JOB_NOT_FOUND", b"NOT_WORKER"}   # errors, of gearmand and Perl's server, about an answer that came too late
AWAKE, GRABBING, DRY, ASLEEP = "awake", "grabbing", "dry", "asleep"   # dry: one grab of several found nothing


class WorkerHandler(Handler, GearmanWorkerCommandHandler):
    """The state of one connection of a worker. The library's state machine sleeps after every job; this one grabs again."""

    def initial_state(self, abilities=None, client_id=None) -> None:
        super().initial_state()
        self.state, self.grabs = AWAKE, 0   # grabs: those that have no answer yet
        self.submitting = False
        self.created: bytes | Refused | None = None   # the answer to a resubmission
        self.connection.expect()
        self.send_command(protocol.GEARMAN_COMMAND_SET_CLIENT_ID, client_id=client_id)
        for function in abilities:
            self.send_command(protocol.GEARMAN_COMMAND_CAN_DO, task=function)

    def owes(self) -> bool:
        return self.grabs > 0 or self.submitting

    def slow(self, now: float) -> bool:
        """Whether the answer to a grab takes so long that it keeps no other server waiting."""
        return self.grabs > 0 and now - self.connection.since > SLOW

    def grab(self) -> None:
        if not self.owes():
            self.connection.expect()
        self.state = GRABBING
        self.grabs += 1
        self.send_command(protocol.GEARMAN_COMMAND_GRAB_JOB_UNIQ)

    def answered(self) -> None:
        self.connection.expect()
        if self.recovery.error:
            self.recovery.answered()
            self.connection_manager.untold.append(f"{self.connection.server}: connected again")

    def grab_answered(self) -> None:
        if not self.grabs:
            self.connection.lose("no Gearman server: it answered what was not asked")
        self.grabs -= 1
        self.answered()

    def recv_noop(self) -> None:
        if self.state == ASLEEP:
            self.state = AWAKE

    def recv_no_job(self) -> None:
        self.grab_answered()
        self.state = DRY
        if not self.grabs:
            self.state = ASLEEP
            self.send_command(protocol.GEARMAN_COMMAND_PRE_SLEEP)   # answered by NOOP at once where jobs have come

    def recv_job_assign_uniq(self, job_handle, task, unique, data) -> None:
        self.grab_answered()
        if not self.grabs:
            self.state = AWAKE
        self.connection_manager.jobs.append(Assigned(self.connection_manager, self, job_handle, task, unique, data))

    def recv_job_created(self, job_handle) -> None:
        self.answered()
        self.created = job_handle

    def recv_error(self, error_code, error_text) -> None:
        refused = Refused(error_code, error_text)
        if error_code.upper() in OF_ANSWERS or not self.owes():
            warn(f"{self.connection.server}: {refused}")
        elif self.submitting:
            self.created = refused
        else:
            self.connection.lose(f"asked for a job: {refused}")

    def on_io_error(self) -> None:
        """What this server has handed out and nobody has taken yet, it hands out again."""
        jobs = self.connection_manager.jobs
        kept = [assigned for assigned in jobs if assigned.handler is not self]
        jobs.clear()
        jobs.extend(kept)


class Worker(Manager, GearmanWorker):
    """A worker of one function over several servers.

    .jobs has arrived and was not taken yet; .window is how many may be there or asked for, one by default. The loss of a
    server is warned of once, until it answers again.
    """

    command_handler_class = WorkerHandler

    def __init__(self, servers: list, function: bytes, client_id: bytes, spool=None, limit: int = LIMIT):
        """spool, limit: as of connection.Connection."""
        super().__init__(servers)
        for connection in self.connection_list:
            connection.spool, connection.limit = spool, limit
        self.handler_initial_state = {"abilities": [function], "client_id": client_id}
        self.window = 1
        self.jobs: collections.deque[Assigned] = collections.deque()
        self.turn = 0
        self.untold: list[str] = []   # losses and returns of servers

    # ---- servers

    @property
    def down(self) -> dict[Connection, ServerLost]:
        """The trouble of each server that has not answered since."""
        return {connection: recovery.error for connection, recovery in self.recovery.items() if recovery.error}

    def down_error(self) -> ServerLost:
        """The trouble to raise where no server is left; it is not warned of besides."""
        error = next(iter(self.down.values()), None) or ServerLost("no server")
        self.untold = [text for text in self.untold if text != str(error)]
        return error

    @property
    def idle(self) -> bool:
        """Whether every server that can be reached has said that it has no job."""
        return bool(self.connection_to_handler_map) and not self.jobs and \
            all(handler.state == ASLEEP for handler in self.connection_to_handler_map.values())

    def outstanding(self) -> int:
        """How many jobs were asked for, of servers that are not slow to answer, and have not come."""
        now = time.monotonic()
        return sum(handler.grabs for handler in self.connection_to_handler_map.values() if not handler.slow(now))

    def asking(self) -> bool:
        """Whether jobs are here that nobody has taken yet, or may be on their way."""
        return bool(self.jobs) or any(handler.grabs for handler in self.connection_to_handler_map.values())

    def connect(self) -> None:
        """Try every server once. Raises ServerLost where none can be reached."""
        lost = []
        for connection in self.connection_list:
            try:
                self.establish_connection(connection)
            except ServerLost as error:
                connection.close()
                lost.append((connection, error))
        if not self.connection_to_handler_map:
            raise lost[0][1]
        for connection, trouble in lost:
            self.lost(connection, trouble, 0.0)

    def _reconnect(self) -> None:
        for connection in self.connection_list:
            self.attempt(connection)

    def lost(self, connection: Connection, error: ServerLost, cost: float) -> bool:
        first = super().lost(connection, error, cost)
        if first:
            self.untold.append(str(error))
        return first

    def _tell(self) -> None:
        """Warn of what befell servers, at the next step and not at once: an error that ends the tool is told by that."""
        for text in self.untold:
            warn(text)
        self.untold.clear()

    # ---- jobs

    def next(self, wait: float | None, wake=()) -> Assigned | None:
        """The next job; None after wait seconds (None: no limit), when a descriptor in wake is readable, or with wait 0 when
        every server said that it has none."""
        until = time.monotonic() + (float("inf") if wait is None else wait)
        while not self.jobs:
            if wait == 0:
                self._reconnect()
                if self.idle:
                    return None
                if not self.connection_to_handler_map:
                    raise self.down_error()
            woken = self.attend(self.timeout if wait == 0 else max(0.0, until - time.monotonic()), wake)
            if not self.jobs and (woken or (wait != 0 and time.monotonic() >= until)):
                return None
        return self.jobs.popleft()

    def ready(self) -> Assigned | None:
        """A job that has arrived already."""
        return self.jobs.popleft() if self.jobs else None

    def grab(self) -> None:
        """Ask for jobs now, up to the window; they arrive with a later step."""
        self._grab()
        self.send()

    def ask_again(self) -> None:
        """Ask every server for a job, also one that has said that it has none: there are new ones."""
        for handler in self.connection_to_handler_map.values():
            if handler.state == ASLEEP:
                handler.state = AWAKE

    def _grab(self) -> None:
        """Let grabs be outstanding up to the window, in turn over the servers that may have a job."""
        now = time.monotonic()
        handlers = [self.connection_to_handler_map[connection] for connection in self.connection_list
                    if connection in self.connection_to_handler_map]
        for handler in handlers:
            if handler.state == ASLEEP and now - handler.connection.since >= SAFETY:
                handler.state = AWAKE
        free = self.window - len(self.jobs) - sum(handler.grabs for handler in handlers if not handler.slow(now))
        ready = [handler for handler in handlers if handler.state in (AWAKE, GRABBING) and not handler.slow(now)]
        while free > 0 and ready:
            self.turn += 1
            ready[self.turn % len(ready)].grab()
            free -= 1

    # ---- sending and receiving

    def attend(self, seconds: float, wake, receive: bool = True) -> list[int]:
        """Connect, ask for jobs, send and receive once, waiting at most so long; which descriptors of wake have woken us.

        What has arrived is in .jobs. receive: False where no more of them can be held.
        """
        self._tell()
        self._reconnect()
        self._grab()
        woken = self.step(list(self.connection_to_handler_map), min(seconds, self._next_event()) if receive else seconds, wake,
                          receive)
        if receive:
            self.drop_silent(self.connection_list)
        return woken

    def _next_event(self) -> float:
        """Seconds until a server must be tried, asked or given up."""
        now = time.monotonic()
        times = [self.recovery[connection].retry_at for connection in self.connection_list if not connection.connected]
        for connection, handler in self.connection_to_handler_map.items():
            if handler.state == ASLEEP:
                times.append(connection.since + SAFETY)
            elif handler.grabs and len(self.connection_list) > 1 and not handler.slow(now):
                times.append(connection.since + SLOW)
        return max(0.001, min(self.patience(), min(times, default=now + SAFETY) - now))

    def step(self, connections, seconds: float, wake=(), receive: bool = True) -> list[int]:
        """Send and receive once, waiting at most so long; which descriptors of wake have woken us."""
        self.send()
        connections = [connection for connection in connections if connection.connected]
        asked = connections if receive else [connection for connection in connections if connection.writable()]
        readable, writable, broken = self.poll_connections_once(asked, seconds, wake)
        self.handle_connection_activity(readable if receive else (), writable, broken)
        for connection in connections:
            self.flush(connection)   # PRE_SLEEP
        return self.woken

    def send(self) -> None:
        """Send what is queued for every server, as far as that goes at once."""
        for connection in list(self.connection_to_handler_map):
            self.flush(connection)

    def drain(self, seconds: float | None = None, until=lambda: None, connections=None) -> bool:
        """Hand the queued answers to the kernel to their end, as long as their servers take any of them; whether all went.

        It stops after that many seconds, and at the time.monotonic() that until() returns: it is asked again and again, since
        a signal may come meanwhile. connections: only theirs.
        """
        began, chosen = time.monotonic(), list(connections or self.connection_to_handler_map)
        while True:
            for connection in chosen:
                self.flush(connection)
            busy = [connection for connection in chosen if connection.writable()]
            if not busy:
                return all(connection.connected for connection in chosen)
            now = time.monotonic()
            if passed(until) or (seconds is not None and now >= began + seconds):
                return False
            self.step(busy, STEP)
            for connection in busy:
                if connection.writable() and max(began, connection.moved()) + self.timeout < now:
                    self.drop(connection, ServerLost(f"{connection.server}: took nothing of an answer in {self.timeout:g} s"))

    def release(self, until=lambda: None, connections=None) -> None:
        """Give the jobs in hand back to their servers, by closing the connections; answers are sent before, as by drain()."""
        self.drain(None, until, connections)
        for connection in list(connections or self.connection_to_handler_map):
            if connection.connected:
                connection.hang_up(lambda: passed(until))
                self.handle_error(connection)

    def close(self, until=lambda: None) -> None:
        """End the connections, as release() does."""
        self.release(until)
        self._tell()
        self.shutdown()


def passed(until) -> bool:
    """Whether the time.monotonic() that until() returns has come; None never comes."""
    limit = until()
    return limit is not None and time.monotonic() >= limit
