"""What our client, worker and admin share over one or several connections: mixed in before the library's classes."""

from __future__ import annotations

import select
import time

from python3_gearman import protocol
from python3_gearman.command_handler import GearmanCommandHandler
from python3_gearman.connection_manager import DataEncoder, GearmanConnectionManager

from libgm.backoff import Backoff
from libgm.gearman.address import Server, timeout
from libgm.gearman.connection import PARAMS, Connection, ServerLost

NOT_ASKED = {protocol.GEARMAN_COMMAND_STATUS_RES, protocol.GEARMAN_COMMAND_ECHO_RES, protocol.GEARMAN_COMMAND_JOB_ASSIGN}
RECEIVERS = {kind: protocol.get_command_name(kind).lower().replace("gearman_command_", "recv_")
             for kind in PARAMS if kind not in NOT_ASKED}
FOREGROUND = {"high": protocol.GEARMAN_COMMAND_SUBMIT_JOB_HIGH, "normal": protocol.GEARMAN_COMMAND_SUBMIT_JOB,
              "low": protocol.GEARMAN_COMMAND_SUBMIT_JOB_LOW}
BACKGROUND = {"high": protocol.GEARMAN_COMMAND_SUBMIT_JOB_HIGH_BG, "normal": protocol.GEARMAN_COMMAND_SUBMIT_JOB_BG,
              "low": protocol.GEARMAN_COMMAND_SUBMIT_JOB_LOW_BG}
HURRY = 1.0   # seconds that the others wait for a server to accept a connection, once it was in trouble
COST = 20     # seconds that a server stays away for each second that the others had to wait for it


class Bytes(DataEncoder):
    """The library's default encoder refuses bytes; here everything is bytes."""

    @classmethod
    def encode(cls, data: bytes) -> bytes:
        return data

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        return data


class Recovery:
    """A server's trouble: .error, None while it is well, and .retry_at, the time.monotonic() from which to try it again."""

    __slots__ = ("backoff", "retry_at", "error")

    def __init__(self):
        self.backoff, self.retry_at, self.error = Backoff(0.1, 15.0, 0.25), 0.0, None

    def lost(self, error: ServerLost, cost: float) -> bool:
        """Note a loss that others had to wait cost seconds for; whether it is the first since the server last answered."""
        first, self.error = self.error is None, error
        self.retry_at = time.monotonic() + max(self.backoff.next(), COST * cost)
        return first

    def answered(self) -> None:
        """Note an answer after trouble: only that ends it, not a connection."""
        self.error = None
        self.backoff.reset()


class Manager(GearmanConnectionManager):
    """What our client, worker and admin share: mixed in before the library's manager class.

    The library polls with select(), which fails over descriptor 1023, and ends the process when it is interrupted.
    .timeout: seconds for an answer, by address.timeout() when it was made.
    """

    data_encoder = Bytes
    connection_class = Connection

    def __init__(self, servers: list[Server]):
        self.timeout = timeout()
        self.recovery: dict[Connection, Recovery] = {}
        self.woken: list[int] = []   # descriptors of `wake` that ended the last poll
        super().__init__(servers)

    def add_connection(self, server: Server) -> Connection:
        connection = self.connection_class(server)
        self.connection_list.append(connection)
        self.recovery[connection] = Recovery()
        return connection

    # ---- reconnecting

    def attempt(self, connection: Connection) -> bool:
        """Whether the server is connected, after an attempt when one is due."""
        if connection.connected:
            return True
        began, recovery = time.monotonic(), self.recovery[connection]
        if recovery.retry_at > began:
            return False
        connection.connect_limit = HURRY if recovery.error and self.connection_to_handler_map else None
        try:
            self.establish_connection(connection)
        except ServerLost as error:
            connection.close()
            self.lost(connection, error, time.monotonic() - began)
            return False
        return True

    def drop(self, connection: Connection, error: ServerLost, cost: float = 0.0) -> None:
        """Close a connection that was lost, or is given up."""
        self.handle_error(connection)
        self.lost(connection, error, cost)

    def lost(self, connection: Connection, error: ServerLost, cost: float) -> bool:
        """Note a loss, of which the handler knows already; whether it is the first since the server last answered."""
        return self.recovery[connection].lost(error, cost if self.connection_to_handler_map else 0.0)

    def patience(self) -> float:
        """Seconds until a server that owes an answer may count as silent; at most .timeout."""
        return min((max(0.0, connection.patience(self.timeout)) for connection, handler in self.connection_to_handler_map.items()
                    if handler.owes()), default=self.timeout)

    def drop_silent(self, connections) -> None:
        """Drop each server that owes an answer for too long; what has arrived from it was to be read before."""
        limit = self.timeout
        late = time.monotonic() - limit
        for connection in connections:
            if connection.connected and connection.since <= late and connection.patience(limit) <= 0 and \
                    self.connection_to_handler_map[connection].owes():
                self.drop(connection, ServerLost(f"{connection.server}: no answer in {limit:g} s"), limit)

    # ---- sending and receiving

    def poll_connections_once(self, submitted_connections, timeout=None, wake=()):
        """(readable, writable, broken) connections; wake: more descriptors that end the wait when readable, or a dict
        of them to poll(2)'s events. Those that something happened to are in .woken then."""
        by_fd, poll = {}, select.poll()
        for connection in submitted_connections:
            if connection.connected:
                by_fd[connection.fileno()] = connection
                poll.register(connection.fileno(), select.POLLIN | (select.POLLOUT if connection.writable() else 0))
        for fd in wake:
            poll.register(fd, wake[fd] if isinstance(wake, dict) else select.POLLIN)
        self.woken = []
        readable, writable = set(), set()
        for fd, what in poll.poll(None if timeout is None else max(0, int(timeout * 1000 + 0.999))):
            if fd in by_fd:
                if what & ~select.POLLOUT:
                    readable.add(by_fd[fd])
                if what & select.POLLOUT:
                    writable.add(by_fd[fd])
            else:
                self.woken.append(fd)
        return readable, writable, set()

    def handle_connection_activity(self, rd_connections, wr_connections, ex_connections):
        """As the library's, but the reason of a loss is kept for lost()."""
        for connection in wr_connections:
            self.flush(connection)
        for connection in rd_connections:
            if connection.connected:
                try:
                    self.handle_read(connection)
                except ServerLost as error:
                    self.drop(connection, error)
        return rd_connections, wr_connections, ex_connections

    def flush(self, connection: Connection) -> None:
        """Send what is queued for a server, as far as that goes at once."""
        if connection.writable():
            try:
                connection.flush()
            except ServerLost as error:
                self.drop(connection, error)


class Handler(GearmanCommandHandler):
    """What our handlers share: mixed in before the library's, whose handling stops at an ERROR packet."""

    def initial_state(self, *_, **__):
        self.connection: Connection = self.connection_manager.handler_to_connection_map[self]
        self.recovery: Recovery = self.connection_manager.recovery[self.connection]

    def owes(self) -> bool:
        """Whether the server is to answer something."""
        return False

    def fetch_commands(self) -> None:
        while True:
            command = self.connection_manager.read_command(self)
            if command is None:
                return
            self.take(*command)

    def take(self, kind: int, arguments: dict) -> None:
        """Handle a command. Raises ServerLost for one that no server sends to the likes of us."""
        receive = getattr(self, RECEIVERS.get(kind, ""), None)
        if receive is None:
            self.connection.lose(f"no Gearman server: it sent us {protocol.get_command_name(kind)}")
        receive(**arguments)

