"""COMMAND of gm-work --pipe: one process that is given a record per line and answers a line per job. gm-work(1), PIPE MODE."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import time

from libgm.worker.protocol import Broken
from libgm.worker.run import CHUNK, DUP2, MAX_OUTPUT, STDERR_BYTES, Outcome, end_group, exit_fd, spawn, tail
from libgm.worker.verdict import last_line

MAX_LINE = 96 << 20    # bytes: a result of MAX_OUTPUT in base64 and what stands around it
PIPE_SIZE = 1 << 20    # bytes asked for, so that a large payload or result changes hands less often
NOISY = 1.0            # seconds after a word on stderr in which a COMMAND is given one job at a time, to tell whose it is


class Command:
    """COMMAND as a process. Raises OSError where it cannot be started."""

    def __init__(self, argv: list[str], env: dict):
        ends = [os.pipe() for _ in range(3)]   # stdin, stdout, stderr
        theirs = [ends[0][0], ends[1][1], ends[2][1]]
        self.stdin, self.stdout, self.stderr = ours = [ends[0][1], ends[1][0], ends[2][0]]
        try:
            self.pid = spawn(argv, env, [(DUP2, end, fd) for fd, end in enumerate(theirs)])
        except OSError:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        for fd in ours:
            os.set_blocking(fd, False)
            try:
                fcntl.fcntl(fd, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE_SIZE)
            except OSError:
                pass   # the user's pipes are many
        self.ended = exit_fd(self.pid)
        self.status: int | None = None    # of waitpid()
        self.outgoing: list = []          # what the pipe would not take yet
        self.offered = self.written = 0   # bytes that are meant for it, and those of them given to the pipe
        self.parts: list[bytes] = []      # of a line that has not ended yet
        self.size = 0
        self.said, self.old = bytearray(), 0   # the end of its stderr, and how much of that was there before its answer
        self.answers, self.reading = 0, False
        self.spoke = -NOISY               # time.monotonic() of the last word on stderr
        self.closed: str | None = None    # which end of the talk it has closed

    def wake(self) -> dict:
        """The descriptors to wait for, with poll(2)'s events."""
        found = {self.stderr: select.POLLIN}
        if self.closed != "output":
            found[self.stdout] = select.POLLIN
        if self.ended >= 0:
            found[self.ended] = select.POLLIN
        if self.closed != "input":
            found[self.stdin] = select.POLLOUT if self.outgoing else 0   # that nobody reads any more is told in any case
        return found

    # ---- to it

    def give(self, line: bytes) -> int:
        """Let a line go out with the next write(); the offset at which it begins."""
        self.outgoing.append(line)
        self.offered += len(line)
        return self.offered - len(line)

    def write(self) -> None:
        """Write what is to go out, as far as it is taken."""
        if not self.outgoing:
            self.closed = self.closed or "input"   # woken with nothing to write
        while self.outgoing:
            data = memoryview(self.outgoing[0] if len(self.outgoing) == 1 else b"".join(self.outgoing))
            try:
                sent = os.write(self.stdin, data[:PIPE_SIZE])
            except BlockingIOError:
                sent = 0
            except OSError:
                self.outgoing, self.closed = [], self.closed or "input"
                return
            self.written += sent
            self.outgoing = [data[sent:]] if sent < len(data) else []
            if not sent:
                return

    def has_read(self, offset: int) -> bool:
        """Whether it has begun to read what was given at that offset; the kernel knows what lies in the pipe."""
        try:
            unread, = struct.unpack("i", fcntl.ioctl(self.stdin, termios.FIONREAD, struct.pack("i", 0)))
        except OSError:
            unread = 0
        return self.written - unread > offset

    def noisy(self) -> bool:
        return time.monotonic() - self.spoke < NOISY

    # ---- from it

    def listen(self) -> None:
        """Take in what it says on stderr."""
        self.old = len(self.said)
        while True:
            try:
                chunk = os.read(self.stderr, CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                return
            self.said += chunk
            self.spoke = time.monotonic()
            if len(self.said) > 4 * STDERR_BYTES:
                del self.said[:-STDERR_BYTES]
                self.old = 0
            if len(chunk) < CHUNK:
                return

    def heard(self, ahead: bool) -> bytes:
        """What it said on stderr for the job that it has answered; ahead: it has the next one already, and what came
        together with the answer may be of that one, so it is kept."""
        said = bytes(self.said)
        del self.said[:self.old if ahead else None]
        self.old = 0
        return said

    def lines(self) -> list[bytes]:
        """The whole lines that are here now. Raises Broken where one is too long."""
        found: list[bytes] = []
        size = CHUNK if not self.size else PIPE_SIZE
        if self.size > MAX_LINE:
            raise Broken(f"output over {MAX_OUTPUT >> 20} MiB")
        while True:
            try:
                chunk = os.read(self.stdout, size)
            except BlockingIOError:
                return found
            if not chunk:
                self.closed = "output"
                return found
            self.parts.append(chunk)
            self.size += len(chunk)
            if b"\n" in chunk:
                *whole, rest = b"".join(self.parts).split(b"\n")
                found += [line for line in whole if line.strip()]
                self.parts, self.size = [rest] if rest else [], len(rest)
            if len(chunk) < size or self.size > MAX_LINE:
                return found
            size = PIPE_SIZE

    # ---- its end

    def poll(self) -> bool:
        """Whether it has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None

    def wait(self, seconds: float, control) -> bool:
        """Whether it ends within so many seconds, or until control says that we must; what it still writes is dropped."""
        until = time.monotonic() + seconds
        poll = select.poll()
        for fd in (self.stderr, self.ended, control.fd, *(() if self.closed == "output" else (self.stdout,))):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        while not self.poll():
            stop = control.deadline()
            left = (until if stop is None else min(until, stop)) - time.monotonic()
            if left <= 0:
                return False
            for fd, _ in poll.poll(int((left if self.ended >= 0 else min(left, 0.05)) * 1000) + 1):
                if fd == control.fd:
                    control.happened()
                elif fd == self.stderr:
                    self.listen()
                elif fd == self.stdout and not os.read(fd, PIPE_SIZE):
                    poll.unregister(fd)
        return True

    def end(self, grace: float, control) -> None:
        """TERM, and KILL after the grace (seconds), to its whole group; until it is gone."""
        if not self.poll():
            end_group(self.pid, signal.SIGTERM)
            self.wait(grace, control)
        end_group(self.pid, signal.SIGKILL)
        self.collect()

    def finish(self, grace: float, control) -> None:
        """Close its stdin, and let it clean up within the grace (seconds)."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1
        if self.wait(grace, control):
            self.collect()
        else:
            self.end(1.0, control)

    def collect(self) -> None:
        """Wait for it, and close what is open."""
        while self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
        try:
            self.listen()
        except OSError:
            pass
        for fd in (self.stdin, self.stdout, self.stderr, self.ended):
            if fd >= 0:
                os.close(fd)
        self.stdin = self.stdout = self.stderr = self.ended = -1

    def death(self) -> Outcome:
        """Its end as the outcome of the job that it was on."""
        outcome = Outcome(self.status, stderr=tail(bytes(self.said)))
        if outcome.signal is None:
            outcome.verdict = "fail"
            outcome.error = last_line(outcome.stderr) or f"exit status {outcome.exit}"
            if outcome.exit == 0:
                outcome.error = "it ended without an answer" + (f": {outcome.error}" if outcome.stderr else "")
        return outcome
