"""gm-blueox: events as BlueOx's collector reads them (BlueOx, blueox/network.py and context.py)."""

from __future__ import annotations

import os
import re
import struct
import time

from libgm.tools.events import host_port, text
from libgm.units import epoch

HOST, PORT = "127.0.0.1", 3514
META = struct.Struct("!Bd64p64p")   # version, end time, host, type: what the collector routes by
VERSION = 3
KEPT = 3500         # events kept for a collector that is away, as many as BlueOx's own clients keep
IN_HAND = 16        # of those given to ZeroMQ, which confirms nothing
LINGER = 2000       # ms at the end for what ZeroMQ has


def frames(event: dict) -> tuple[bytes, bytes]:
    """The two frames of an event: the packed meta data, and the map in the msgpack dialect that BlueOx reads."""
    import msgpack
    try:
        end = epoch(text(event, "time"))
    except ValueError:
        end = time.time()
    duration = event.get("duration")
    duration = duration if isinstance(duration, (int, float)) else 0.0
    host, kind = field(text(event, "host") or os.uname().nodename), kind_of(event)
    found = {"id": text(event, "unique"), "type": kind, "host": host, "pid": event.get("worker"),
             "start": end - duration, "end": end, "body": body(event)}
    try:
        packed = pack(msgpack, found)
    except (OverflowError, ValueError, TypeError):   # numbers over 64 bits, nested too deep
        packed = pack(msgpack, {**found, "body": body({**event, "extra": {}})})
    return META.pack(VERSION, end, host.encode(), kind.encode()), packed


def pack(msgpack, found: dict) -> bytes:
    return msgpack.packb(found, use_bin_type=False, unicode_errors="replace")


def body(event: dict) -> dict:
    """The event's extra, and how the job ended."""
    extra = event.get("extra")
    found = dict(extra) if isinstance(extra, dict) else {}
    found.update(outcome=event.get("event"), duration=event.get("duration"), attempts=event.get("attempts"))
    found.update({name: event[name] for name in ("reason", "error", "exit", "signal", "server", "handle")
                  if event.get(name) is not None})
    return found


def kind_of(event: dict) -> str:
    """gearmang.FUNCTION, without / and control characters: the collector names files by it."""
    return field("gearmang." + re.sub(r"[/\\\s\x00-\x1f\x7f]", "_", text(event, "function")))


def field(value: str) -> str:
    """At most the 63 bytes that a field of 64p holds, never half a character."""
    return value.encode("utf-8", "replace")[:63].decode("utf-8", "ignore")


def address(given: str | None) -> str:
    """tcp://HOST:PORT of HOST[:PORT], else of $BLUEOX_HOST, else of this machine. Raises Usage."""
    host, port = host_port(given or os.environ.get("BLUEOX_HOST") or HOST, PORT, "HOST:PORT" if given else "BLUEOX_HOST")
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


class ZeroMQ:
    """The transport to a collector. ZeroMQ knows whether one is connected, not what it has read."""

    def __init__(self, place: str):
        self.place, self.socket = place, None

    def __str__(self) -> str:
        return self.place

    def send(self, message: tuple[bytes, bytes]) -> None:
        import zmq
        try:
            if self.socket is None:
                self.socket = zmq.Context.instance().socket(zmq.PUSH)
                self.socket.setsockopt(zmq.IMMEDIATE, 1)   # only to a collector that is there
                self.socket.setsockopt(zmq.IPV6, 1)
                self.socket.setsockopt(zmq.SNDHWM, IN_HAND)
                self.socket.setsockopt(zmq.LINGER, LINGER)
                self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
                self.socket.connect(self.place)
            if not self.socket.poll(500, zmq.POLLOUT):
                raise TimeoutError("no collector answers")
            self.socket.send_multipart(message, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise OSError(error.errno, str(error)) from None

    def unconfirmed(self) -> int:
        return 0

    def close(self) -> None:
        """Do nothing: the socket reconnects by itself."""

    def finish(self) -> None:
        """Let ZeroMQ send what it has, for LINGER at most, and close the socket."""
        import zmq
        if self.socket is not None:
            self.socket.close()
            zmq.Context.instance().term()
