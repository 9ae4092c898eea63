"""gearmand, spoken to over bare sockets: no tool of ours comes in between."""

from __future__ import annotations

import socket
import struct

NORMAL, HIGH = 18, 32   # packets that submit a background job


def packet(kind: int, *arguments: bytes) -> bytes:
    body = b"\0".join(arguments)
    return b"\0REQ" + struct.pack(">II", kind, len(body)) + body


class Queue:
    """gearmand on a port of 127.0.0.1, spoken to over bare sockets."""

    def __init__(self, port: int):
        self.address = "127.0.0.1", port

    def answers(self) -> bool:
        try:
            return self.admin(b"version\n").startswith(b"OK")
        except OSError:
            return False

    def admin(self, command: bytes) -> bytes:
        """The answer to a line of the admin protocol. Raises OSError."""
        with socket.create_connection(self.address, 2) as connection:
            connection.sendall(command)
            answer = b""
            while not (answer.startswith((b"OK", b"ERR")) and answer.endswith(b"\n")) and not answer.endswith(b".\n"):
                chunk = connection.recv(65536)
                if not chunk:
                    raise ConnectionError("closed")
                answer += chunk
            return answer

    def submit(self, function: str, jobs: dict[int, str], kind: int = NORMAL) -> None:
        """Submit background jobs, each acknowledged when this returns."""
        with socket.create_connection(self.address, 10) as connection, connection.makefile("rb") as answers:
            for number, what in jobs.items():
                connection.sendall(packet(kind, function.encode(), b"job-%d" % number, f"{number} {what}".encode()))
            for _ in jobs:
                answer, size = struct.unpack(">II", answers.read(12)[4:])
                if answer != 8:
                    raise RuntimeError(f"not accepted: packet {answer}: {answers.read(size)!r}")
                answers.read(size)

    def queued(self) -> int | None:
        """Jobs that gearmand has; None where it does not tell."""
        return self._sum(-3)

    def running(self) -> int | None:
        """Jobs that workers have in hand; None where gearmand does not tell."""
        return self._sum(-2)

    def _sum(self, column: int) -> int | None:
        try:
            lines = self.admin(b"status\n").splitlines()
        except OSError:
            return None
        return sum(int(line.split(b"\t")[column]) for line in lines if b"\t" in line)

    def workers(self) -> list[int]:
        """The pids of the gm-work processes that are connected. Raises OSError."""
        return [int(words[2].rpartition(b":")[2]) for words in map(bytes.split, self.admin(b"workers\n").splitlines())
                if len(words) > 2 and words[2].startswith(b"gm-work:")]
