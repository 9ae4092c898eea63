"""gm-syslog: events as syslog messages of RFC 5424, to the local socket, by UDP (RFC 5426) or TCP (RFC 6587)."""

from __future__ import annotations

import collections
import re
import select
import socket
import time

from libgm.errors import Usage
from libgm.gearman.tcp import unacknowledged
from libgm.shell.lines import safe
from libgm.tools.events import host_port, text

PORT = 514
DAEMON = 3           # the facility
SEVERITIES = {"dead": 3, "drop": 4, "retry": 4, "hold": 4, "release": 5, "done": 6}   # error, warning, notice, informational
FAILURES = ("retry", "hold", "dead", "drop")   # what is sent without --all
ENDS = {"retry": "tried again", "hold": "held during an outage", "dead": "quarantined", "drop": "dropped",
        "release": "given back", "done": "done"}
FIELDS = ("function", "unique", "attempts", "reason", "exit", "signal", "duration", "handle", "server")
ELEMENT = "gearmang@32473"   # 32473 is the enterprise number for examples (RFC 5612): we have none
LONGEST = 8000       # bytes: rsyslog takes 8 kB, and no receiver need take more than 2 (RFC 5424, 6.1)
SETTLING = 0.05      # seconds in which a host answers that nobody listens


def message(event: dict) -> bytes:
    """An event as a syslog message."""
    kind = text(event, "event")
    when = text(event, "time")
    head = " ".join([
        f"<{DAEMON * 8 + SEVERITIES.get(kind, 5)}>1",
        when if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", when) else "-",
        word(text(event, "host"), 255), "gearmang", word(text(event, "worker"), 128), word(kind, 32)])
    given = {name: text(event, name) for name in FIELDS}
    data = "".join(f' {name}="{escape(value[:500])}"' for name, value in given.items() if value)
    said = [given["function"], given["handle"], f"attempt {given['attempts']}", text(event, "error"), ENDS.get(kind, kind)]
    line = f"{head} [{ELEMENT}{data}] {safe(': '.join(part for part in said if part))}"
    return line.encode("utf-8", "replace")[:LONGEST].decode("utf-8", "ignore").encode()


def word(value: str, longest: int) -> str:
    """A value as a field of the header: printable ASCII without spaces."""
    return re.sub(r"[^!-~]", "_", value)[:longest] or "-"


def escape(value: str) -> str:
    """A value as a PARAM-VALUE (RFC 5424, 6.3.3)."""
    return re.sub(r'(["\\\]])', r"\\\1", safe(value))


class Local:
    """The datagram socket of this machine's daemon. A message has arrived when send() returns."""

    def __init__(self, path: str):
        self.path = path
        self.socket: socket.socket | None = None

    def __str__(self) -> str:
        return self.path

    def connect(self) -> socket.socket:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        found.settimeout(1)
        try:
            found.connect(self.path)
        except OSError:
            found.close()
            raise
        return found

    def opened(self) -> socket.socket:
        """The socket, connected."""
        if self.socket is None:
            self.socket = self.connect()
        return self.socket

    def send(self, data: bytes) -> None:
        self.opened().send(data)

    def unconfirmed(self) -> int:
        return 0

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class UDP(Local):
    """Datagrams to another host. Only an ICMP answer to one tells that nobody listens."""

    kind = socket.SOCK_DGRAM

    def __init__(self, host: str, port: int):
        super().__init__(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        self.address, self.sent = (host, port), 0.0

    def connect(self) -> socket.socket:
        error = OSError("no address")
        try:
            places = socket.getaddrinfo(*self.address, type=self.kind)
        except ValueError:
            raise OSError("not the name of a host") from None
        for family, kind, protocol, _, address in places:
            found = socket.socket(family, kind, protocol)
            found.settimeout(1)
            try:
                found.connect(address)
                return found
            except OSError as this:
                found.close()
                error = this
        raise error

    def send(self, data: bytes) -> None:
        super().send(data)
        self.sent = time.monotonic()

    def unconfirmed(self) -> int:
        error = self.opened().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "connection refused")
        return int(time.monotonic() < self.sent + SETTLING)


class TCP(UDP):
    """A stream to another host. A message has arrived when that host's kernel has acknowledged its bytes."""

    kind = socket.SOCK_STREAM

    def __init__(self, host: str, port: int):
        super().__init__(host, port)
        self.close()

    def send(self, data: bytes) -> None:
        if self.gone():
            raise ConnectionResetError("the receiver closed the connection")
        frame = b"%d %b" % (len(data), data)
        self.opened().sendall(frame)
        self.bytes += len(frame)
        self.ends.append(self.bytes)

    def gone(self) -> bool:
        """Whether the receiver has closed its end; it sends nothing else."""
        opened = self.opened()
        return bool(select.select([opened], [], [], 0)[0]) and opened.recv(1, socket.MSG_PEEK) == b""

    def unconfirmed(self) -> int:
        arrived = self.bytes - unacknowledged(self.opened())
        while self.ends and self.ends[0] <= arrived:
            self.ends.popleft()
        if self.ends and self.gone():
            raise ConnectionResetError("the receiver closed the connection")
        return len(self.ends)

    def close(self) -> None:
        super().close()
        self.bytes = 0   # sent
        self.ends: collections.deque[int] = collections.deque()   # where in them the unconfirmed messages end


def transport(place: str | None, tcp: bool) -> Local:
    """The transport that an operand names: a path or nothing, the local socket; HOST[:PORT]. Raises Usage."""
    if place is None or ("/" in place and "://" not in place):
        if tcp:
            raise Usage("--tcp: for HOST:PORT only")
        return Local(place or "/dev/log")
    return (TCP if tcp else UDP)(*host_port(place, PORT, "HOST:PORT"))
