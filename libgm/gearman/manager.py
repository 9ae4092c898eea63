"""What our client, worker and admin share over one or several connections: mixed in before the library's classes."""

from __future__ import annotations

import random
import select
import time

from python3_gearman import protocol
from python3_gearman.connection_manager import DataEncoder

from libgm.gearman.address import Server
from libgm.gearman.connection import PARAMS, Connection, ServerLost

RECEIVERS = {kind: protocol.get_command_name(kind).lower().replace("gearman_command_", "recv_")
             for kind in PARAMS}


class Bytes(DataEncoder):
    """The library's default encoder refuses bytes; here everything is bytes."""

    @classmethod
    def encode(cls, data: bytes) -> bytes:
        return data

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        return data


class Manager:
    """What our client, worker and admin share: mixed in before the library's manager class.

    The library polls with select(), which fails over descriptor 1023, and ends the process when it is interrupted.
    """

    data_encoder = Bytes
    connection_class = Connection

    def add_connection(self, server: Server) -> Connection:
        connection = self.connection_class(server)
        self.connection_list.append(connection)
        return connection

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
        self.woken: list = []
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
            if connection.connected:
                try:
                    connection.flush()
                except ServerLost as error:
                    self._drop(connection, error)
        for connection in rd_connections:
            if connection.connected:
                try:
                    self.handle_read(connection)
                except ServerLost as error:
                    self._drop(connection, error)
        return rd_connections, wr_connections, ex_connections

    def _drop(self, connection: Connection, error: ServerLost) -> None:
        self.handle_error(connection)
        self.lost(connection, error)

    def lost(self, connection: Connection, error: ServerLost) -> None:
        """A connection has gone; its handler has been told."""
        raise error


class Handler:
    """What our handlers share: mixed in before the library's, whose handling stops at an ERROR packet."""

    recv_status_res = recv_echo_res = recv_job_assign = None   # answers to what we never ask

    def fetch_commands(self) -> None:
        while True:
            command = self.connection_manager.read_command(self)
            if command is None:
                return
            self.take(*command)

    def take(self, kind: int, arguments: dict) -> None:
        """Handle a command. Raises ServerLost for one that no server sends to the likes of us."""
        receive = getattr(self, RECEIVERS[kind], None)
        if receive is None:
            connection = self.connection_manager.handler_to_connection_map[self]
            connection.lose(f"no Gearman server: it sent us {protocol.get_command_name(kind)}")
        receive(**arguments)


class Backoff:
    """When a server may be tried again: 0.1 s doubling to 15 s, jittered; time.monotonic() in .at."""

    def __init__(self):
        self.pause, self.at = 0.1, 0.0

    def failed(self, cost: float = 0.0) -> None:
        """It did, after having kept us for cost seconds: a server that swallows what is sent is tried the less often."""
        self.at = time.monotonic() + max(self.pause, 20 * cost) * random.uniform(0.75, 1.25)
        self.pause = min(15.0, self.pause * 2)

    def worked(self) -> None:
        self.__init__()
