"""What is said of a wait that may have no end: that nobody works what is waited for."""

from __future__ import annotations

import threading
import time

from python3_gearman.admin_client import GearmanAdminClient
from python3_gearman.admin_client_handler import GearmanAdminClientCommandHandler

from libgm.errors import Unavailable
from libgm.gearman.address import Server, timeout
from libgm.gearman.connection import ServerLost
from libgm.gearman.manager import Handler, Manager
from libgm.shell.messages import warn

SLACK = 0.25   # seconds over a server's limit, so that what it says itself of its trouble is not missed


class AdminHandler(Handler, GearmanAdminClientCommandHandler):
    def recv_text_command(self, raw_text: bytes) -> None:
        self.connection_manager.lines.append(raw_text[:-1] if raw_text.endswith(b"\r") else raw_text)


class Admin(Manager, GearmanAdminClient):
    """Questions to one server. Each raises ServerLost where no whole answer comes in time."""

    command_handler_class = AdminHandler

    def __init__(self, server: Server):
        super().__init__([server])
        self.lines: list[bytes] = []

    def ask(self, command: bytes, last=lambda line: line == b".") -> list[bytes]:
        """The lines of the answer, without the one that last() knows it by: the `.` of a listing."""
        connection, limit = self.current_connection, timeout()
        self.establish_connection(connection)
        self.lines = []
        connection.put_text(command + b"\n")
        until, seen = time.monotonic() + limit, 0
        while True:
            self.handle_connection_activity(*self.poll_connections_once([connection], until - time.monotonic()))
            for at in range(seen, len(self.lines)):
                if last(self.lines[at]):
                    return self.lines[:at]
            seen = len(self.lines)
            if time.monotonic() >= until:
                self._drop(connection, ServerLost(f"{connection.server}: no answer in {limit:g} s"))

    def status(self) -> list[tuple[bytes, int, int, int]]:
        """(function, total, running, workers): total counts running and delayed jobs; names may hold tabs."""
        return self._table(self.ask(b"status"), 3)

    def prioritystatus(self) -> dict[bytes, tuple[int, int, int, int]]:
        """function -> (high, normal, low, workers), queued jobs only; the last question to a connection.

        A server that passes the question over (geard) answers the next one, of lines with a number less: empty then.
        """
        lines = self.ask(b"prioritystatus\nstatus")
        return {row[0]: row[1:] for row in self._table([line for line in lines if line.count(b"\t") >= 4], 4)}

    def _table(self, lines: list[bytes], numbers: int) -> list:
        found = []
        for line in lines:
            name, *counts = line.rsplit(b"\t", numbers)
            try:
                found.append((name, *map(int, counts)))
            except ValueError:
                counts = []
            if len(counts) != numbers:
                raise ServerLost(f"{self.current_connection.server}: not a line of a status: {line[:60]!r}")
        return found

    def workers(self) -> list[tuple[int, str, bytes, list[bytes]]]:
        """(fd, ip, client id, functions) of every connection; client ids may hold spaces."""
        found = []
        for line in self.ask(b"workers"):
            who, _, functions = line.rpartition(b" :") if b" : " not in line else line.rpartition(b" : ")
            fd, ip, client = (who.split(b" ", 2) + [b"", b""])[:3]
            found.append((int(fd) if fd.isdigit() else -1, ip.decode("ascii", "replace"), client, functions.split()))
        return found

    def version(self) -> str:
        said: list[bytes] = []
        self.ask(b"version", lambda line: not said.append(line))
        return said[0].decode("utf-8", "replace")


def ask_all(servers: list[Server], question, report) -> list[tuple]:
    """(server, question(Admin of it)) of each server that answers, all asked at once, in the order of the list.

    report(error) is called for each of the others, an Unavailable: all is over in timeout() seconds, whatever hangs
    (a name server too).
    """
    found: dict = {}

    def ask(server: Server) -> None:
        try:
            admin = Admin(server)
            answer = question(admin)
            admin.shutdown()
            found[server] = answer
        except Exception as error:   # the caller's thread raises what is no trouble of the server
            found[server] = error
    limit = timeout()
    threads = [threading.Thread(target=ask, args=(server,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    until = time.monotonic() + limit + SLACK
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    answers = []
    for server in servers:
        answer = found.get(server, ServerLost(f"{server}: no answer in {limit:g} s"))
        if isinstance(answer, Unavailable):
            report(answer)
        elif isinstance(answer, Exception):
            raise answer
        else:
            answers.append((server, answer))
    return answers


def tell(waited: set) -> None:
    """Say which of waited, each a (server, function), have no worker; nothing of a server that does not say."""
    servers = sorted({server for server, _ in waited})
    for server, rows in ask_all(servers, lambda one: one.status(), report=lambda error: None):
        working = {function for function, _, _, workers in rows if workers}
        for function in sorted(function for where, function in waited if where == server and function not in working):
            warn(f"{function.decode('utf-8', 'replace')}: waiting: no worker for it on {server}")
