"""A process of COMMAND for each job: payload in, result out, limits kept."""

from __future__ import annotations

import os
import select
import time

from libgm.errors import reason
from libgm.worker.child import DUP2, Child, pipes
from libgm.worker.command import Command, Unfit
from libgm.worker.outcome import MAX_EXTRA, MAX_OUTPUT, STDERR_BYTES, Outcome, extras, tail

CHUNK = 1 << 16
ATOMIC = 4096       # bytes that any new pipe holds
BRIEF = 0.002       # seconds in which only its end wakes the worker, not each descriptor that it closes on the way there


class ProcessPerJob(Command):
    """COMMAND as a process for each job, one at a time."""

    run: Run | None = None
    following: tuple | None = None   # the attempt that is given next, and its Run

    def room(self, ahead: int) -> int:
        return 0 if self.given else 1

    def prepare(self, attempt) -> None:
        if self.following and self.following[0] is attempt:
            return
        self.forget()
        env = {**self.env, b"GM_UNIQUE": attempt.unique, b"GM_HANDLE": attempt.assigned.handle,
               b"GM_ATTEMPT": b"%d" % (attempt.before + 1), b"GM_JOB_SERVER": attempt.server.encode(),
               b"GM_RUN": b"%s.%d" % (self.env[b"GM_RUN"], attempt.run)}
        try:
            self.following = attempt, Run(env, attempt.data, self.settings.timeout, self.settings.grace)
        except OSError as error:
            raise Unfit(f"{self.settings.argv[0]}: cannot run: {reason(error)}") from None

    def forget(self) -> None:
        """The job that was prepared is not given."""
        if self.following:
            self.following[1].close()
            self.following = None

    def give(self, attempt) -> None:
        self.prepare(attempt)
        assert self.following
        run, self.following = self.following[1], None
        try:
            run.start(self.settings.argv)
        except OSError as error:
            raise Unfit(f"{self.settings.argv[0]}: cannot run: {reason(error)}") from None
        self.run, self.began = run, run.began
        self.given.append(attempt)

    def watch(self) -> dict[int, int]:
        return self.run.watch() if self.run else {}

    def due(self, now: float) -> float | None:
        return self.run.due(now) if self.run else None

    def attend(self, woken: list[int]) -> list[tuple]:
        run = self.run
        if run is None or not run.attend(woken):
            return []
        self.run = None
        return [(self.given.popleft(), run.outcome())]

    def stop(self) -> None:
        if self.run and not self.run.stopped:
            self.run.stopped = True
            self.run.child.terminate(min(self.settings.grace, 1.0))

    def end(self) -> bool:
        self.forget()
        run, self.run = self.run, None
        if run:
            run.kill()
        return run is not None


class Run:
    """The process of a job: is started, fed, read and ended. timeout, grace: seconds. Raises OSError."""

    child: Child

    def __init__(self, env: dict[bytes, bytes], data: bytes, timeout: float | None, grace: float):
        self.env, self.timeout, self.grace, self.data = env, timeout, grace, memoryview(data)
        self.parts: list[bytes] = []
        self.size, self.stderr, self.extra = 0, bytearray(), bytearray()
        self.stopped = self.overflow = self.timed_out = False
        (stdin, self.feed), stdout, stderr, extra = pipes(4)
        self.takers = {stdout[0]: self.take_stdout, stderr[0]: self.take_stderr, extra[0]: self.take_extra}
        self.open = set(self.takers)
        self.theirs = [stdin, stdout[1], stderr[1], extra[1]]
        if len(data) > ATOMIC:
            os.set_blocking(self.feed, False)
        self.write()

    def start(self, argv: list[str]) -> None:
        """Start it. Raises OSError, and has closed all then."""
        self.began = time.monotonic()
        try:
            self.child = Child(argv, self.env, [(DUP2, fd, number) for number, fd in enumerate(self.theirs)])
        except OSError:
            self.close()
            raise
        self.close_theirs()
        self.timeout_at = None if self.timeout is None else self.began + self.timeout

    def close_theirs(self) -> None:
        """Close the process's ends of the pipes."""
        for fd in self.theirs:
            os.close(fd)
        self.theirs = []

    # ---- its descriptors

    def watch(self) -> dict[int, int]:
        found = {} if self.child.ended < 0 else {self.child.ended: select.POLLIN}
        if self.feed >= 0:
            found[self.feed] = select.POLLOUT
        if not self.brief():
            found.update(dict.fromkeys(self.open, select.POLLIN))
        return found

    def brief(self) -> bool:
        """Whether it has only just begun, and what it writes is left in its pipes."""
        return self.feed < 0 <= self.child.ended and time.monotonic() < self.began + BRIEF

    def due(self, now: float) -> float | None:
        """time.monotonic() at which attend() is due whatever happens."""
        times = [self.began + BRIEF if self.brief() else None, self.child.due(now),
                 None if self.child.ending else self.timeout_at]
        return min((at for at in times if at is not None), default=None)

    def write(self) -> None:
        """Feed its input as far as it takes any, then close that."""
        try:
            while self.data:
                self.data = self.data[os.write(self.feed, self.data[:1 << 20]):]
        except BlockingIOError:
            return
        except OSError:
            pass   # it has closed its input: its own affair
        os.close(self.feed)
        self.feed = -1

    def read(self, fd: int, most: int = 16) -> None:
        """Take what is there on fd, at most so many chunks: a fast writer keeps no signal waiting."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        for _ in range(most):
            chunk = os.read(fd, CHUNK)
            if not chunk:
                self.open.discard(fd)
                return
            self.takers[fd](chunk)
            if len(chunk) < CHUNK or not poll.poll(0):
                return

    def take_stdout(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size <= MAX_OUTPUT:
            self.parts.append(chunk)
        elif not self.overflow:
            self.overflow = True
            self.parts.clear()
            self.child.terminate(self.grace)

    def take_stderr(self, chunk: bytes) -> None:
        self.stderr += chunk
        if len(self.stderr) > 4 * STDERR_BYTES:
            del self.stderr[:-STDERR_BYTES]

    def take_extra(self, chunk: bytes) -> None:
        if len(self.extra) < MAX_EXTRA:
            self.extra += chunk

    # ---- its end

    def attend(self, woken: list[int]) -> bool:
        """Act on what happened; whether the process has ended. Whoever else holds its output does not keep the job."""
        for fd in woken:
            if fd == self.feed:
                self.write()
            elif fd in self.open:
                self.read(fd)
        child = self.child
        if (child.ended in woken or child.ended < 0) and child.look():
            return True
        now = time.monotonic()
        if not child.ending and self.timeout_at is not None and now >= self.timeout_at:
            self.timed_out = True
            child.terminate(self.grace)
        child.press(now)
        return False

    def outcome(self) -> Outcome:
        """How it ended."""
        outcome = Outcome(self.child.status)
        outcome.duration, outcome.forced = time.monotonic() - self.began, self.child.ending
        outcome.stopped, outcome.timed_out = self.stopped, self.timed_out
        outcome.overflow, outcome.collect = self.overflow, lambda: self.collect(outcome)
        return outcome

    def collect(self, outcome: Outcome) -> None:
        """Read what is left in its pipes, and close them."""
        poll = select.poll()
        for fd in self.open:
            poll.register(fd, select.POLLIN)
        for fd, what in poll.poll(0):
            if what & select.POLLIN:
                self.read(fd)
        self.child.reap()
        self.close()
        outcome.stdout, outcome.stderr, outcome.overflow = b"".join(self.parts), tail(bytes(self.stderr)), self.overflow
        outcome.extra = extras(bytes(self.extra[:MAX_EXTRA]))

    def kill(self) -> None:
        """End it and its group at once."""
        self.child.kill_at = 0.0
        self.child.press(time.monotonic())
        self.child.reap()
        self.close()

    def close(self) -> None:
        self.close_theirs()
        for fd in (self.feed, *self.takers):
            if fd >= 0:
                os.close(fd)
        self.feed = -1
