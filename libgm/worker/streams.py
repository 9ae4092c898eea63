"""The pipes between a worker and COMMAND in pipe mode: lines to it, lines from it, its stderr. Nothing here waits."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time

from libgm.worker.outcome import MAX_OUTPUT, STDERR_BYTES
from libgm.worker.protocol import Broken

CHUNK = 1 << 16
PIPE_SIZE = 1 << 20    # bytes asked for, so that a large payload or result changes hands less often
MAX_LINE = 96 << 20    # bytes: a result of MAX_OUTPUT in base64 and what stands around it
NEVER = -1e9           # time.monotonic() of what did not happen


class Stream:
    """Our end of a pipe. .open: until its other end was closed, or ours."""

    def __init__(self, fd: int):
        self.fd, self.open = fd, True
        os.set_blocking(fd, False)
        try:
            fcntl.fcntl(fd, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE_SIZE)
        except OSError:
            pass   # the user's pipes are many

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self.open = -1, False

    def read(self, size: int) -> bytes | None:
        """Up to size bytes that are there now; None where there are none."""
        try:
            chunk = os.read(self.fd, size)
        except BlockingIOError:
            return None
        self.open = bool(chunk)
        return chunk or None

    def skip(self) -> None:
        """Read and forget what is there."""
        self.read(PIPE_SIZE)


class LineWriter(Stream):
    """Lines to a process. .outgoing: what the pipe has not taken yet."""

    def __init__(self, fd: int):
        super().__init__(fd)
        self.outgoing: list = []
        self.offered = self.written = 0   # bytes of all lines, and those of them given to the pipe

    def put(self, line: bytes) -> int:
        """Queue a line; the offset at which it begins."""
        self.outgoing.append(line)
        self.offered += len(line)
        return self.offered - len(line)

    def flush(self) -> None:
        """Write what is queued, as far as it is taken."""
        while self.outgoing and self.open:
            data = memoryview(self.outgoing[0] if len(self.outgoing) == 1 else b"".join(self.outgoing))
            try:
                sent = os.write(self.fd, data[:PIPE_SIZE])
            except BlockingIOError:
                return
            except OSError:
                self.outgoing, self.open = [], False
                return
            self.written += sent
            self.outgoing = [data[sent:]] if sent < len(data) else []

    def has_read(self, offset: int) -> bool:
        """Whether the line at that offset has begun to be read; the kernel knows what lies in the pipe."""
        try:
            unread, = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, struct.pack("i", 0)))
        except OSError:
            unread = 0
        return self.written - unread > offset


class LineReader(Stream):
    """Lines from a process."""

    def __init__(self, fd: int):
        super().__init__(fd)
        self.parts: list[bytes] = []   # of a line that has not ended yet,
        self.size = 0                  # and their bytes

    def lines(self) -> list[bytes]:
        """The whole lines that are here now. Raises Broken where one is too long."""
        found: list[bytes] = []
        size = PIPE_SIZE if self.size else CHUNK
        while self.open:
            chunk = self.read(size)
            if chunk is None:
                break
            self.parts.append(chunk)
            self.size += len(chunk)
            if b"\n" in chunk:
                *whole, rest = b"".join(self.parts).split(b"\n")
                found += [line for line in whole if line.strip()]
                self.parts, self.size = [rest] if rest else [], len(rest)
            if self.size > MAX_LINE:
                raise Broken(f"output over {MAX_OUTPUT >> 20} MiB")
            if len(chunk) < size:
                break
            size = PIPE_SIZE
        return found


class StderrReader(Stream):
    """The stderr of a process. .said: the end of it; .spoke: time.monotonic() of the last word."""

    def __init__(self, fd: int):
        super().__init__(fd)
        self.said, self.old = bytearray(), 0   # old: how many bytes of it were there at the last listen()
        self.spoke = NEVER

    def listen(self) -> None:
        """Take in what is there."""
        self.old = len(self.said)
        while self.open:
            chunk = self.read(CHUNK)
            if chunk is None:
                return
            self.said += chunk
            self.spoke = time.monotonic()
            if len(self.said) > 4 * STDERR_BYTES:
                del self.said[:-STDERR_BYTES]
                self.old = 0
            if len(chunk) < CHUNK:
                return

    def heard(self, ahead: bool) -> bytes:
        """What was said for the job that is answered now. ahead: the process has the next one already, of which that may be
        which came together with the answer: it is kept."""
        said = bytes(self.said)
        del self.said[:self.old if ahead else None]
        self.old = 0
        return said
