"""Programs of others that speak the Gearman protocol, byte by byte: raw clients, workers and servers for the tests."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading

from conftest import ROOT, free_port, until

from libgm.gearman import address

CAN_DO, SUBMIT_JOB, CREATED, GRAB_JOB, NO_JOB, COMPLETE, FAIL, SUBMIT_BG, ERROR = 1, 7, 8, 9, 10, 13, 14, 18, 19
STATUS_RES, EXCEPTION, OPTION_REQ, DATA, WARNING, GRAB_JOB_UNIQ, ASSIGN_UNIQ = 20, 25, 26, 28, 29, 30, 31


def frame(kind: int, *fields: bytes, magic: bytes = b"\0RES") -> bytes:
    body = b"\0".join(fields)
    return struct.pack(">4sII", magic, kind, len(body)) + body


class Raw:
    """A connection to a server: say() sends a request, hear() is the next (kind, body) from it."""

    def __init__(self, server: str):
        self.socket = socket.create_connection(address.parse_servers(server)[0][:2], 20)
        self.got = b""

    def say(self, kind: int, *fields: bytes) -> None:
        self.socket.sendall(frame(kind, *fields, magic=b"\0REQ"))

    def hear(self) -> tuple[int, bytes]:
        while len(self.got) < 12 or len(self.got) < 12 + struct.unpack(">I", self.got[8:12])[0]:
            chunk = self.socket.recv(1 << 16)
            if not chunk:
                raise ConnectionError("the server closed the connection")
            self.got += chunk
        kind, length = struct.unpack(">II", self.got[4:12])
        body, self.got = self.got[12:12 + length], self.got[12 + length:]
        return kind, body

    def submit(self, function: bytes, unique: bytes, data: bytes, kind: int = SUBMIT_BG) -> bytes:
        """The handle of a job."""
        self.say(kind, function, unique, data)
        answer, handle = self.hear()
        assert answer == CREATED
        return handle

    def grab(self, function: bytes) -> tuple[bytes, ...]:
        """(handle, function, unique, data) of the next job, waited for."""
        self.say(CAN_DO, function)
        return until(self._grab)

    def _grab(self) -> tuple[bytes, ...] | None:
        self.say(GRAB_JOB_UNIQ)
        kind, body = self.hear()
        return None if kind == NO_JOB else tuple(body.split(b"\0", 3))

    def close(self) -> None:
        self.socket.close()


class Server:
    """A server that does to each connection what serve(socket) says, in a thread of its own."""

    def __init__(self, serve):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = address.Server("127.0.0.1", self.listener.getsockname()[1], False)
        self.serve, self.connections = serve, 0
        threading.Thread(target=self.run, daemon=True).start()

    def __str__(self) -> str:
        return str(self.address)

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self.attend, args=(connection,), daemon=True).start()

    def attend(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.serve(connection)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def requests(connection: socket.socket):
    """(kind, body) of each request that comes, and (None, line) of each admin command."""
    got = b""
    while True:
        if got.startswith(b"\0") and len(got) >= 12 and len(got) >= 12 + struct.unpack(">I", got[8:12])[0]:
            kind, length = struct.unpack(">II", got[4:12])
            yield kind, got[12:12 + length]
            got = got[12 + length:]
        elif got and not got.startswith(b"\0") and b"\n" in got:
            line, _, got = got.partition(b"\n")
            yield None, line
        else:
            chunk = connection.recv(1 << 16)
            if not chunk:
                return
            got += chunk


class Relay:
    """tests/chaos/proxy in front of a server; set("slow") and the like."""

    def __init__(self, gm, port: int):
        self.port = free_port()
        self.process = gm.start(sys.executable, ROOT / "tests/chaos/proxy", "1", f"{self.port}:{port}", stdin=subprocess.PIPE)
        until(self.listens)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def set(self, mode: str) -> None:
        self.process.stdin.write(f"0 {mode}\n".encode())
        self.process.stdin.flush()

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.port}"
