"""python3_gearman made byte-exact: servers, and one connection class that frames bytes. What drives it: manager.py.

They stand on the library's own extension points (connection_class, command_handler_class, data_encoder); what the
library gets wrong and how is in its users' notes at each class.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import struct
import termios
import time

from python3_gearman import connection as library
from python3_gearman import errors as library_errors
from python3_gearman import protocol

from libgm import job
from libgm.errors import Error, Unavailable, reason
from libgm.gearman.address import Server, timeout

HEADER = struct.Struct(">4sII")
LIMIT = job.MAX_PAYLOAD + 4096   # bytes; a longer declared length is not believed
CHUNK = 1 << 18
SMALL = 1 << 16                  # of a first read: the memory for a larger one is asked of the kernel each time
SEND = 1 << 20
PARAMS = protocol.GEARMAN_PARAMS_FOR_COMMAND
ERROR = protocol.GEARMAN_COMMAND_ERROR
ASSIGN = protocol.GEARMAN_COMMAND_JOB_ASSIGN_UNIQ
TEXT = protocol.GEARMAN_COMMAND_TEXT_COMMAND


class ServerLost(Unavailable, library_errors.ConnectionError):
    """A server that cannot be reached, went away, does not answer, or talks nonsense."""


class Refused(Error):
    """An ERROR packet; .code is gearmand's, such as b"QUEUE_ERROR"."""

    def __init__(self, code: bytes, text: bytes):
        self.code = code
        super().__init__(f"the server refused it: {code.decode('utf-8', 'replace')}: {text.decode('utf-8', 'replace')}")


class Connection(library.GearmanConnection):
    """The library's connection with its framing replaced.

    The library packs the length of the text instead of its bytes, decodes payloads as UTF-8, copies its buffer for each
    read and command, knows IPv4 only and has no timeout, keepalive or TLS. Commands come out of read_command() as
    (type, {name: bytes}).
    """

    connect_cooldown_seconds = 0.0   # pauses are the callers', who wait instead of failing

    def __init__(self, server: Server):
        self.server = server
        self.spool = None     # callable(handle, function, unique, length) -> binary file for a payload in a packet over .limit
        self.limit = LIMIT    # bytes; what is longer and no payload is not believed
        super().__init__(host=server.host, port=server.port)

    def _reset_connection(self) -> None:
        super()._reset_connection()
        self._incoming = bytearray()
        self._outgoing: list = []
        self.moved = 0.0             # time.monotonic() when bytes last went either way: a large payload takes its time
        self._sent = self._taken = 0 # bytes given to the kernel, and of those what the peer had taken at the last look
        self._needs = HEADER.size    # bytes before the next look at _incoming can tell anything new
        self._spooling = None        # (type, arguments, file, bytes left) of a payload that goes into a file
        self.textual = False         # admin replies are lines
        self._heard = False          # whether the peer has said anything

    # ---- connecting

    def _create_client_socket(self) -> None:
        limit = timeout()
        try:
            plain = socket.create_connection((self.server.host, self.server.port), limit)
        except socket.timeout:
            self.lose(f"cannot connect: no answer in {limit:g} s")
        except ValueError as error:   # of the host's name
            self.lose(f"cannot connect: {error}")
        except OSError as error:
            hint = ": is gearmand running? gm-server starts one" if error.errno == errno.ECONNREFUSED else ""
            self.lose(f"cannot connect: {reason(error)}{hint}")
        try:
            for level, name, value in ((socket.IPPROTO_TCP, "TCP_NODELAY", 1), (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
                                       (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 60), (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 10),
                                       (socket.IPPROTO_TCP, "TCP_KEEPCNT", 6), (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 120000)):
                if hasattr(socket, name):
                    plain.setsockopt(level, getattr(socket, name), value)
            self.gearman_socket = self._secure(plain) if self.server.tls else plain
        except OSError as error:
            plain.close()
            self.lose("cannot connect: " + (tls_trouble(error) if self.server.tls else reason(error)))
        self.gearman_socket.setblocking(False)

    def _secure(self, plain: socket.socket) -> socket.socket:
        """plain under TLS: the certificate and its name are verified, without a way around it."""
        import ssl
        authority, certificate, key = (os.environ.get(name) or None for name in
                                       ("GM_TLS_CA", "GM_TLS_CERT", "GM_TLS_KEY"))
        try:
            context = ssl.create_default_context(cafile=authority)
            if certificate:
                context.load_cert_chain(certificate, key, password=lambda: b"")   # nobody is asked for it
        except OSError as error:
            names = " ".join(filter(None, (authority, certificate, key)))
            self.lose(f"$GM_TLS_...: cannot use {names}: {reason(error)}")
        return context.wrap_socket(plain, server_hostname=self.server.host)

    def lose(self, why: str):
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

    def put_text(self, line: bytes) -> None:
        """Queue a line of the admin protocol; its answer is lines too."""
        self.textual = True
        self._outgoing.append(line)

    def send_command(self, cmd_type: int, cmd_args: dict) -> None:
        self.put(cmd_type, *(cmd_args[name] for name in PARAMS[cmd_type]))

    def writable(self) -> bool:
        return self.connected and bool(self._outgoing)

    def send_commands_to_buffer(self) -> None:
        pass   # frames are packed as they are queued

    def send_data_to_socket(self) -> int:
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
            self.moved = time.monotonic()
            self._sent += sent
            if sent == len(data):
                del self._outgoing[0]
            else:
                self._outgoing[0] = data[sent:]
        return len(self._outgoing)

    flush = send_data_to_socket

    def draining(self) -> bool:
        """Whether the peer has taken more of what the kernel holds since this was last asked; that counts as moved."""
        left = array.array("i", [0])
        fcntl.ioctl(self.gearman_socket.fileno(), termios.TIOCOUTQ, left)
        taken, before = self._sent - left[0], self._taken
        self._taken = taken
        if taken > before:
            self.moved = time.monotonic()
        return taken > before

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

    def part(self, seconds: float = 1.0) -> None:
        """Say that no more comes, and wait for the peer to close: closing with something unread would be a reset, which
        may overtake what we sent."""
        until = time.monotonic() + seconds
        poll = select.poll()
        try:
            self.gearman_socket.shutdown(socket.SHUT_WR)
            poll.register(self.gearman_socket.fileno(), select.POLLIN)
            while poll.poll(max(0, int((until - time.monotonic()) * 1000))) and self.gearman_socket.recv(CHUNK):
                pass
        except OSError:
            pass   # it has gone already

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
                    break   # a loss is told by the next read
                self.lose(f"connection lost: {reason(error)}")
            if not chunk:
                if got:
                    break   # the next read tells
                self.lose("connection lost: the server closed it" +
                          ("" if self._heard and not self.textual else ": is it a gearmand?"))
            self._heard = True
            got += len(chunk)
            self._take(chunk)
            if len(chunk) < size and not self.server.tls:
                break
        if got:
            self.moved = time.monotonic()
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
        """Cut whole frames (or admin lines) off what was read; how many. Raises ServerLost for what is no frame."""
        data, commands = self._incoming, self._incoming_commands
        if self.textual:
            *lines, rest = data.split(b"\n")
            self._incoming = rest
            if len(rest) > self.limit:
                self.lose("no Gearman server: a line without an end")
            commands.extend((TEXT, {"raw_text": bytes(line)}) for line in lines)
            return len(lines)
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
                if not (kind == ASSIGN and self.spool):
                    self.lose(f"declared a packet of {length} bytes: more than is ever taken")
                if not self._begin_spooling(data, at + HEADER.size, length, names):
                    self._needs = HEADER.size + 4096
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
            commands.append((kind, dict(zip(names, fields))))
            at, count = end, count + 1
        else:
            self._needs = HEADER.size
        del data[:at]
        return count

    def _begin_spooling(self, data: bytearray, at: int, length: int, names) -> bool:
        """Let a payload that is too large go into a file; False while its names are not all here."""
        fields = bytes(data[at:at + 4096]).split(b"\0", len(names) - 1)
        if len(fields) < len(names):
            if len(data) - at >= 4096:
                self.lose("no Gearman server: a job without an end to its names")
            return False
        heads = fields[:-1]
        skip = sum(len(head) + 1 for head in heads)
        try:
            file = self.spool(*heads, length - skip)
        except OSError as error:
            self.lose(f"a payload too large for memory cannot be written to a file: {reason(error)}")
        rest = bytes(data[at + skip:])
        self._incoming = bytearray()
        self._spooling = (ASSIGN, dict(zip(names, (*heads, file))), file, length - skip)
        self._take(rest)
        return True


def split(data: bytearray, start: int, end: int, count: int) -> list[bytes]:
    """At most count fields between start and end of data, each copied once; the last may hold NUL."""
    fields = []
    with memoryview(data) as view:
        while len(fields) < count - 1 and start <= end:
            stop = data.find(0, start, end)
            if stop < 0:
                break
            fields.append(bytes(view[start:stop]))
            start = stop + 1
        if count:
            fields.append(bytes(view[start:end]))
    return fields


def tls_trouble(error: OSError) -> str:
    """Why a TLS connection could not be made."""
    import ssl
    verify = getattr(error, "verify_message", "")
    if verify:
        return f"its certificate cannot be trusted: {verify.lower().rstrip('.')}"
    if isinstance(error, (ssl.SSLError, ConnectionError)):
        why = getattr(error, "reason", None) or error.strerror or str(error)
        return f"no TLS there: {why.lower().replace('_', ' ')} (a plain port?)"
    return reason(error)


def would_block(error: OSError) -> bool:
    return isinstance(error, (BlockingIOError, InterruptedError)) or \
        type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")
