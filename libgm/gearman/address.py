"""Server addresses."""

from __future__ import annotations

import collections
import os

from libgm.errors import Usage

PORT = 4730


def timeout() -> float:
    """Seconds for a server to accept a connection, and to answer: $GM_TIMEOUT, or 5; at most a day. Raises Usage."""
    try:
        return min(86400.0, max(0.05, float(os.environ.get("GM_TIMEOUT", "5"))))
    except ValueError:
        raise Usage(f"GM_TIMEOUT: not a number of seconds: {os.environ['GM_TIMEOUT']!r}") from None


class Server(collections.namedtuple("Server", "host port tls")):
    """The address of a server; str() writes it as users do."""

    __slots__ = ()

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls://' if self.tls else ''}{host}:{self.port}"


def parse_servers(text: str) -> list[Server]:
    """The servers of a comma-separated list of host[:port], [v6]:port, tls://host:port. Raises Usage."""
    found: list[Server] = []
    for part in text.split(","):
        rest = part.strip()
        if not rest:
            continue
        tls = rest.startswith("tls://")
        rest = rest[6:] if tls else rest
        if rest.startswith("["):
            host, bracket, port = rest[1:].partition("]")
            good = bracket and (not port or port.startswith(":"))
            port = port[1:]
        elif rest.count(":") > 1:
            host, port, good = rest, "", True   # a bare IPv6 address
        else:
            host, _, port = rest.partition(":")
            good = True
        if port and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
            good = False
        if not good or not host or "/" in host or not host.isprintable() or " " in host:
            raise Usage(f"server list: {part.strip()!r} is not host[:port], [v6]:port or tls://host:port")
        server = Server(host, int(port or PORT), tls)
        if server not in found:
            found.append(server)
    if not found:
        raise Usage("server list: empty: give host[:port], [v6]:port or tls://host:port")
    return found
