"""A connection to one server: frames of bytes, in and out. The managers (manager.py) decide when."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable

from python3_gearman import connection as library
from python3_gearman import errors as library_errors
from python3_gearman import protocol

from libgm import job
from libgm.errors import Error, Unavailable, reason
from libgm.gearman import tcp, tls
from libgm.gearman.address import Server, timeout

TYPE_CHECKING = False   # as mypy reads it; typing is not imported when the tools run
if TYPE_CHECKING:
    from typing import NoReturn

HEADER = struct.Struct(">4sII")
LIMIT = job.MAX_PAYLOAD + 4096   # bytes; a longer declared length is not believed
CHUNK = 1 << 18                  # bytes of a read
SMALL = 1 << 16                  # bytes of a first read: the kernel is asked for the memory of a larger one each time
SEND = 1 << 20                   # bytes of a write
NAMES = 1 << 16                  # bytes before a payload: handle, function, unique; gearmand takes functions of some kilobytes
SLOWEST = 1000                   # bytes a second: a server that keeps us waiting at less counts as silent
STORED = 10_000_000              # bytes a second: what a busy server stores
LOOK = 0.1                       # seconds between two looks at what the peer has acknowledged
CUT_UNIQUE = 63                  # bytes: what gearmand leaves of a longer unique in JOB_ASSIGN_UNIQ
PARAMS = protocol.GEARMAN_PARAMS_FOR_COMMAND
ASSIGN = protocol.GEARMAN_COMMAND_JOB_ASSIGN_UNIQ
STATUS_RES = protocol.GEARMAN_COMMAND_STATUS_RES
TEXT = protocol.GEARMAN_COMMAND_TEXT_COMMAND


class ServerLost(Unavailable, library_errors.ConnectionError):
    """A server that cannot be reached, went away, does not answer, or talks nonsense."""


class Refused(Error):
    """An ERROR packet; .code is the server's, such as b"QUEUE_ERROR"."""

    def __init__(self, code: bytes, text: bytes):
        self.code = code
        said = b": ".join(filter(None, (code, text.rstrip(b"\0").strip())))
        super().__init__(f"the server refused it: {said.decode('utf-8', 'replace')}")


class Connection(library.GearmanConnection):
    """The library's connection with its framing replaced.

    The library packs the length of the text instead of its bytes, decodes payloads as UTF-8, copies its buffer for each
    read and command, knows IPv4 only and has no timeout, keepalive or TLS. Commands come out of read_command() as
    (type, {name: bytes}).
    """

    connect_cooldown_seconds = 0.0   # the managers pause between attempts

    def __init__(self, server: Server):
        self.server = server
        # (handle, function, unique, length) -> binary file, for a payload in a packet over .limit; no other is believed
        self.spool: Callable | None = None
        self.limit = LIMIT   # bytes
        self.connect_limit: float | None = None   # seconds to connect in; None: timeout()
        super().__init__(host=server.host, port=server.port)

    def _reset_connection(self) -> None:
        super()._reset_connection()
        self._incoming = bytearray()
        self._outgoing: list = []
        self._sent = self._taken = 0 # bytes given to the kernel, and of those what the peer had acknowledged at the last look
        self._needs = HEADER.size    # bytes that _incoming must have before there is more to cut off
        self._spooling: tuple | None = None   # (type, arguments, file, bytes left) of a payload that goes into a file
        self._mark = b""             # ends the answer to an admin question
        self._heard = False          # whether the peer has said anything
        self.since = 0.0             # time.monotonic() from which an answer is due: of the question, or of the last answer
        self._moved = 0.0            # time.monotonic() at which bytes were last seen to go either way
        self._traffic = 0            # bytes that went either way since .since

    # ---- connecting

    def _create_client_socket(self) -> None:
        limit, began = min(timeout(), self.connect_limit or timeout()), time.monotonic()
        try:
            plain = tcp.connect(self.server.host, self.server.port, limit)
        except socket.timeout:
            self.lose(f"cannot connect: no answer in {limit:g} s")
        except ValueError as error:   # of the host's name
            self.lose(f"cannot connect: {error}")
        except OSError as error:
            hint = ": is gearmand running? gm-server starts one" if error.errno == errno.ECONNREFUSED else ""
            self.lose(f"cannot connect: {reason(error)}{hint}")
        try:
            plain.settimeout(max(0.05, began + limit - time.monotonic()))
            self.gearman_socket = tls.secure(plain, self.server.host) if self.server.tls else plain
        except tls.Untrusted as error:
            plain.close()
            self.lose(str(error))
        self.gearman_socket.setblocking(False)

    def lose(self, why: str) -> NoReturn:
        """Mark the connection as gone. Raises ServerLost."""
        self.connected = False
        raise ServerLost(f"{self.server}: {why}")

    def throw_exception(self, message=None, exception=None):
        self.lose(message or str(exception))

    # ---- sending

    def put(self, command: int, *fields: bytes) -> None:
        """Queue a frame of a command with its fields in the protocol's order."""
        body = b"\0".join(fields)
        self._outgoing.append(HEADER.pack(b"\0REQ", command, len(body)))
        self._outgoing.append(body)

    def put_question(self, lines: bytes) -> None:
        """Queue admin commands, each a line with its end; the whole answer comes as one TEXT command.

        Lists end in a line with a dot, but so may the name of a function, and some servers pass over what they do not know.
        So the status of a job with a random handle is asked behind them: every server repeats the handle.
        """
        self._mark = os.urandom(16).hex().encode()
        self._outgoing.append(lines)
        self.put(protocol.GEARMAN_COMMAND_GET_STATUS, self._mark)

    def send_command(self, cmd_type: int, cmd_args: dict) -> None:
        self.put(cmd_type, *(cmd_args[name] for name in PARAMS[cmd_type]))

    def writable(self) -> bool:
        return self.connected and bool(self._outgoing)

    def flush(self) -> int:
        """Send what can be sent now; the number of buffers left. Raises ServerLost."""
        if not self.connected:
            self.lose("not connected")
        while self._outgoing:
            data = self._next_to_send()
            try:
                sent = self.gearman_socket.send(data[:SEND])
            except OSError as error:
                if would_block(error):
                    break
                self.lose(f"connection lost: {reason(error)}")
            self._sent += sent
            if sent == len(data):
                del self._outgoing[0]
            else:
                self._outgoing[0] = data[sent:]
        return len(self._outgoing)

    def _next_to_send(self) -> memoryview:
        """What is first in the queue, small buffers joined; a large one or what was sent in part is never copied again."""
        queue = self._outgoing
        if not isinstance(queue[0], memoryview):
            count, size = 1, len(queue[0])
            while count < len(queue) and size + len(queue[count]) <= SEND:
                size += len(queue[count])
                count += 1
            queue[:count] = [memoryview(queue[0] if count == 1 else b"".join(queue[:count]))]
        return queue[0]

    def hang_up(self, ended=lambda: False) -> None:
        """Say that no more comes, and wait for the peer to close: closing with something unread would be a reset, which
        may overtake what we sent. The wait goes on while the peer takes any of that, and until ended()."""
        try:
            self.gearman_socket.shutdown(socket.SHUT_WR)
            poll = select.poll()
            poll.register(self.gearman_socket.fileno(), select.POLLIN)
            self.expect()
            while not ended() and time.monotonic() < self.moved() + 1.0:
                if poll.poll(50) and not self.gearman_socket.recv(CHUNK):
                    return
        except OSError:
            pass   # it has gone already

    # ---- waiting for an answer

    def expect(self) -> None:
        """An answer is due from now on; whatever came before has come whole."""
        self.since, self._traffic = time.monotonic(), 0

    def patience(self, limit: float) -> float:
        """Seconds to wait for the answer that is due; from zero on the server counts as silent.

        It is silent when limit seconds have passed without a byte either way, and a second more for each STORED bytes that
        went before, which a server has to store. It is silent, too, when fewer than SLOWEST bytes a second went beyond the
        limit: a packet that comes byte by byte is no answer.
        """
        now = time.monotonic()
        early = self.since + min(LOOK, limit) - now
        if early > 0:
            return early   # as nearly always: without a look at the socket
        left = min(self.moved() + self._traffic / STORED, self.since + self._traffic / SLOWEST) + limit - now
        return min(left, LOOK) if self._taken < self._sent else left

    def moved(self) -> float:
        """time.monotonic() at which bytes were last seen to go either way, or of expect()."""
        if self._taken < self._sent:
            taken = self._sent - tcp.unacknowledged(self.gearman_socket)   # under TLS, where more is sent, a little less
            if taken > self._taken:
                self._traffic += taken - self._taken
                self._taken, self._moved = taken, time.monotonic()
        return max(self.since, self._moved)

    # ---- receiving

    def read_data_from_socket(self, bytes_to_read: int = CHUNK) -> int:
        """Read all that is there now, up to 8 MiB. Raises ServerLost; what came before the end is delivered first."""
        if not self.connected:
            self.lose("not connected")
        got = 0
        while got < 8 << 20:
            size = bytes_to_read if got else SMALL
            try:
                chunk = self.gearman_socket.recv(size)
            except OSError as error:
                if got or would_block(error):
                    break   # the next read reports the loss
                self.lose(f"connection lost: {reason(error)}")
            if not chunk:
                if got:
                    break   # the next read reports it
                hint = "" if self._heard and not self._mark else ": is it a gearmand?"
                self.lose("connection lost: the server closed it" + hint)
            self._heard = True
            got += len(chunk)
            self._take(chunk)
            if len(chunk) < size and not self.server.tls:
                break
        if got:
            self._moved = time.monotonic()
            self._traffic += got
        return got

    def _take(self, chunk: bytes) -> None:
        if self._spooling is not None:
            kind, arguments, file, left = self._spooling
            try:
                file.write(chunk[:left])
            except OSError as error:
                self._spooling = None
                self.lose(f"a payload too large for memory cannot be written to a file: {reason(error)}")
            self._spooling = (kind, arguments, file, left - len(chunk)) if left > len(chunk) else None
            if self._spooling is None:
                self._incoming_commands.append((kind, arguments))
            chunk = chunk[left:]
        self._incoming += chunk

    def read_commands_from_buffer(self) -> int:
        """Cut whole frames off what was read; how many. Raises ServerLost for what is no frame."""
        data, commands = self._incoming, self._incoming_commands
        if self._mark:
            return self._read_answer()
        if len(data) < self._needs:
            return 0
        at, count, size = 0, 0, len(data)
        while size - at >= HEADER.size:
            magic, kind, length = HEADER.unpack_from(data, at)
            if magic != b"\0RES":
                self.lose("no Gearman server: what it says is not the protocol (a TLS port?)")
            names = PARAMS.get(kind)
            if names is None or kind == TEXT:
                self.lose(f"no Gearman server: unknown command {kind}")
            if length > self.limit:
                if kind != ASSIGN or self.spool is None:
                    self.lose(f"declared a packet of {length} bytes: more than is ever taken")
                if not self._begin_spooling(self.spool, data, at + HEADER.size, length, names):
                    self._needs = HEADER.size + NAMES
                    break
                self._needs = HEADER.size
                return count + 1
            end = at + HEADER.size + length
            if size < end:
                self._needs = end - at
                break
            fields = split(data, at + HEADER.size, end, len(names))
            if len(fields) != len(names):
                self.lose(f"no Gearman server: command {kind} with {len(fields)} fields")
            if kind == ASSIGN and len(fields[2]) == CUT_UNIQUE and fields[3].startswith(b"\0"):
                fields[3] = fields[3][1:]
            commands.append((kind, dict(zip(names, fields))))
            at, count = end, count + 1
        else:
            self._needs = HEADER.size
        del data[:at]
        return count

    def _read_answer(self) -> int:
        """Cut the answer to an admin question off what was read, when its end is here; how many answers. Raises ServerLost."""
        data, body = self._incoming, self._incoming.find(self._mark, max(0, self._needs - HEADER.size - len(self._mark)))
        self._needs = len(data)
        if body < HEADER.size:
            if len(data) > self.limit:
                self.lose("no Gearman server: an answer without an end")
            return 0
        magic, kind, length = HEADER.unpack_from(data, body - HEADER.size)
        if (magic, kind) != (b"\0RES", STATUS_RES):
            self.lose("no Gearman server: it answered what was not asked")
        if len(data) < body + length:
            return 0
        self._incoming_commands.append((TEXT, {"raw_text": bytes(data[:body - HEADER.size])}))
        del data[:body + length]
        self._mark, self._needs = b"", HEADER.size
        return 1

    def _begin_spooling(self, spool: Callable, data: bytearray, at: int, length: int, names) -> bool:
        """Let a payload that is too large go into a file; False while its names are not all here."""
        *heads, payload = bytes(data[at:at + NAMES]).split(b"\0", len(names) - 1)
        if len(heads) < len(names) - 1 or not payload:
            if len(data) - at >= NAMES:
                self.lose("no Gearman server: a job without an end to its names")
            return False
        skip = sum(len(head) + 1 for head in heads) + (len(heads[2]) == CUT_UNIQUE and payload.startswith(b"\0"))
        try:
            file = spool(*heads, length - skip)
        except OSError as error:
            self.lose(f"a payload too large for memory cannot be written to a file: {reason(error)}")
        rest = bytes(data[at + skip:])
        self._incoming = bytearray()
        self._spooling = (ASSIGN, dict(zip(names, (*heads, file))), file, length - skip)
        self._take(rest)
        return True


def split(data: bytearray, start: int, end: int, count: int) -> list[bytes]:
    """At most count fields between start and end of data, each copied once; the last may hold NUL."""
    fields: list[bytes] = []
    with memoryview(data) as view:
        while len(fields) < count and start <= end:
            stop = data.find(0, start, end) if len(fields) < count - 1 else -1
            with view[start:end if stop < 0 else stop] as field:   # released here: PyPy would hold data until it collects it
                fields.append(bytes(field))
            start = end + 1 if stop < 0 else stop + 1
    return fields


def would_block(error: OSError) -> bool:
    return isinstance(error, (BlockingIOError, InterruptedError)) or \
        type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")
