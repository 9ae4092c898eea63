"""Questions about queues and workers, and their answers: the admin protocol of a Gearman server."""

from __future__ import annotations

import collections
import re
import threading
import time

from python3_gearman.admin_client import GearmanAdminClient
from python3_gearman.admin_client_handler import GearmanAdminClientCommandHandler

from libgm.errors import Error, Unavailable
from libgm.gearman.address import Server, timeout
from libgm.gearman.connection import Connection, ServerLost
from libgm.gearman.manager import Handler, Manager
from libgm.shell.messages import warn

SLACK = 0.25     # seconds over a server's limit, so that what it says itself of its trouble is not missed
ATTEMPTS = 5     # to see the same functions in two lists, where others come and go meanwhile
COUNTS = {count: re.compile(rb"(.*)" + rb"\t(-?\d{1,10})" * count + rb"\r?", re.DOTALL) for count in (3, 4)}
WORKER = re.compile(rb"(\d+) (\S+) (.*) :((?: .*)?)\r?", re.DOTALL)


class Queue(collections.namedtuple("Queue", "function total running workers high normal low", defaults=(None, None, None))):
    """A function on one server: total counts running and delayed jobs; high, normal and low count the queued ones by
    priority, and are None where the server does not tell."""

    __slots__ = ()


class BadLine(Error):
    """A line of an answer that cannot be read, and was passed over."""


class AdminHandler(Handler, GearmanAdminClientCommandHandler):
    def recv_text_command(self, raw_text: bytes) -> None:
        self.connection_manager.text = raw_text


class Admin(Manager, GearmanAdminClient):
    """Questions to one server. Each raises ServerLost when no whole answer comes in time.

    .problems has a BadLine for each answer with lines that had to be passed over.
    """

    command_handler_class = AdminHandler

    def __init__(self, server: Server):
        super().__init__([server])
        self.server = server
        self.text: bytes | None = None
        self.problems: list[BadLine] = []

    def ask(self, *commands: bytes) -> list[bytes]:
        """The lines of the answers to commands, one after the other; none of a command that the server passes over."""
        connection, limit = self.current_connection, timeout()
        self.establish_connection(connection)
        self.text = None
        connection.put_question(b"".join(command + b"\n" for command in commands))
        until = time.monotonic() + limit
        while self.text is None:
            if time.monotonic() >= until:
                self.drop(connection, ServerLost(f"{self.server}: no answer in {limit:g} s"))
            self.handle_connection_activity(*self.poll_connections_once([connection], until - time.monotonic()))
        return self.text.split(b"\n")[:-1]

    def lost(self, connection: Connection, error: ServerLost, cost: float) -> bool:
        raise error

    # ---- questions

    def queues(self) -> list[Queue]:
        """Every function of the server.

        The name of a function may hold newlines and tabs, and so look like lines of other functions. Such a line reads the
        same in both lists, while that of a function ends in three counts in one and in four in the other. Of a server that
        has only the first list, lines that cannot be read are passed over.
        """
        for _ in range(ATTEMPTS):
            lines = self.ask(b"status", b"prioritystatus")
            middle = len(lines) // 2
            if len(lines) % 2 or not ends(lines[:middle]) or not ends(lines):
                break   # there is no second list
            found = pair(lines[:middle - 1], lines[middle:-1])
            if found is not None:
                return found
        return self._queues_by_line()

    def workers(self) -> list[tuple[int, str, bytes, list[bytes]]]:
        """(fd, ip, client id, functions) of every connection; client ids may hold spaces."""
        found, bad = [], []
        for line in self._listed(self.ask(b"workers")):
            parts = WORKER.fullmatch(line)
            if parts is None:
                bad.append(line)
                continue
            fd, ip, client, functions = parts.groups()
            found.append((int(fd), ip.decode("ascii", "replace"), client, functions.split()))
        self._pass_over("workers", bad)
        return found

    def version(self) -> str | None:
        """What the server says of its version; None where it says nothing (geard)."""
        lines = self.ask(b"version")
        return lines[0].decode("utf-8", "replace").strip() if lines else None

    def drops_released_jobs(self) -> bool:
        """Whether a job is gone when the connection that it was handed to closes, as with geard: that tells no version."""
        return self.version() is None

    # ---- answers

    def _queues_by_line(self) -> list[Queue]:
        found, bad = [], []
        for line in self._listed(self.ask(b"status")):
            parts = COUNTS[3].fullmatch(line)
            if parts is None:
                bad.append(line)
            else:
                found.append(Queue(parts[1], *map(int, parts.groups()[1:])))
        self._pass_over("status", bad)
        return found

    def _listed(self, lines: list[bytes]) -> list[bytes]:
        """The lines of a list up to its last dot: behind it are errors, of commands that the server does not know."""
        for at in range(len(lines) - 1, -1, -1):
            if ends(lines[:at + 1]):
                return lines[:at]
        raise ServerLost(f"{self.server}: no list: " + (lines[0][:60].decode("utf-8", "replace") if lines else "no answer"))

    def _pass_over(self, question: str, bad: list[bytes]) -> None:
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            self.problems.append(BadLine(
                f"{self.server}: {question}: line passed over: {bad[0][:60].decode('utf-8', 'replace')!r}{more}"))


def ends(lines: list[bytes]) -> bool:
    """Whether a list ends here: its last line is a dot."""
    return bool(lines) and lines[-1].rstrip(b"\r") == b"."


def pair(status: list[bytes], prioritystatus: list[bytes]) -> list[Queue] | None:
    """The functions of two lists, line by line; None where the lists are not of the same functions."""
    found: list[Queue] = []
    begun: list[bytes] = []   # the lines of a name that goes on
    if len(status) != len(prioritystatus):
        return None
    for line, other in zip(status, prioritystatus):
        three, four = COUNTS[3].fullmatch(line), COUNTS[4].fullmatch(other)
        if three and four and three[1] == four[1]:
            name = b"\n".join((*begun, three[1]))
            found.append(Queue(name, *map(int, three.groups()[1:]), *map(int, four.groups()[1:4])))
            begun = []
        elif line == other:
            begun.append(line)
        else:
            return None
    return None if begun else found


def ask_all(servers: list[Server], question) -> tuple[list[tuple], list[Error]]:
    """([(server, question(its Admin)) of each server that answers, in the order of the list], problems).

    The problems are an Unavailable for each of the others, and BadLines. All are asked at once: it is over in timeout()
    seconds, whatever hangs (a name server too).
    """
    found: dict = {}

    def ask(server: Server) -> None:
        try:
            admin = Admin(server)
            answer = question(admin)
            admin.shutdown()
            found[server] = answer, admin.problems
        except Exception as error:   # the caller's thread raises what is no trouble of the server
            found[server] = error
    limit = timeout()
    threads = [threading.Thread(target=ask, args=(server,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    until = time.monotonic() + limit + SLACK
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    answers: list[tuple] = []
    problems: list[Error] = []
    for server in servers:
        result = found.get(server, ServerLost(f"{server}: no answer in {limit:g} s"))
        if isinstance(result, Unavailable):
            problems.append(result)
        elif isinstance(result, Exception):
            raise result
        else:
            answers.append((server, result[0]))
            problems += result[1]
    return answers, problems


def warn_without_worker(waited: set) -> None:
    """Warn of those waited for, each a (server, function), that no worker can do; say nothing of servers that do not answer."""
    servers = sorted({server for server, _ in waited})
    for server, queues in ask_all(servers, Admin.queues)[0]:
        working = {queue.function for queue in queues if queue.workers}
        for function in sorted(function for where, function in waited if where == server and function not in working):
            warn(f"{function.decode('utf-8', 'replace')}: waiting, but no worker on {server} can do it")
