"""TCP sockets: connected in a bounded time, kept alive, and how much of what was sent has not arrived."""

from __future__ import annotations

import socket
import time

OPTIONS = (("IPPROTO_TCP", "TCP_NODELAY", 1), ("SOL_SOCKET", "SO_KEEPALIVE", 1), ("IPPROTO_TCP", "TCP_KEEPIDLE", 60),
           ("IPPROTO_TCP", "TCP_KEEPINTVL", 10), ("IPPROTO_TCP", "TCP_KEEPCNT", 6), ("IPPROTO_TCP", "TCP_USER_TIMEOUT", 120000))


def connect(host: str, port: int, seconds: float) -> socket.socket:
    """A socket connected to the first address of host that answers; all addresses together get that many seconds.

    Raises OSError, and ValueError for a host that cannot be a name.
    """
    name = host.encode() if host.isascii() else host   # bytes spare every start the codec for other names
    addresses = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    until = time.monotonic() + seconds
    trouble = OSError("no address")
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        found = socket.socket(family, kind, protocol)
        try:
            found.settimeout(max(0.001, (until - time.monotonic()) / (len(addresses) - tried)))
            found.connect(address)
            for level, name, value in OPTIONS:
                if hasattr(socket, name):
                    found.setsockopt(getattr(socket, level), getattr(socket, name), value)
            return found
        except OSError as error:
            found.close()
            trouble = error
    raise trouble


def unacknowledged(connected: socket.socket) -> int:
    """Bytes handed to the kernel that the peer's kernel has not acknowledged. Raises OSError."""
    import array
    import fcntl
    import termios
    left = array.array("i", [0])
    fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, left)
    return left[0]
