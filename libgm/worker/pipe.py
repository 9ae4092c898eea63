"""COMMAND of gm-work --pipe: one process that is given a record per line and answers a line per job. gm-work(1), PIPE MODE.

It may have several lines at once; the job that it is on is the first without an answer.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import time

from libgm.errors import reason
from libgm.worker import protocol
from libgm.worker.child import DUP2, Child, pipes
from libgm.worker.command import Command, Unfit, failure
from libgm.worker.outcome import MAX_OUTPUT, STDERR_BYTES, Outcome, last_line, tail
from libgm.worker.protocol import Broken

CHUNK = 1 << 16
MAX_LINE = 96 << 20    # bytes: a result of MAX_OUTPUT in base64 and what stands around it
PIPE_SIZE = 1 << 20    # bytes asked for, so that a large payload or result changes hands less often
NOISY = 1.0            # seconds after a word on stderr in which COMMAND is given one job at a time, to tell whose it is
STARTING = 60.0        # seconds that COMMAND may take to read its first job, beyond the time of a job
LINGER = 1.0           # seconds from the end of its output, or of its reading, to its own end
PAUSE_MAX = 30.0       # seconds before a COMMAND that never answers is started again


class PipeCommand(Command):
    """COMMAND as a process that stays."""

    child: Child | None = None
    pause = 0.0            # seconds before the next start, after ends without any answer

    def start(self) -> None:
        if self.child or not super().ready():
            return
        stdin, stdout, stderr = self._pipes()
        theirs, ours = (stdin[0], stdout[1], stderr[1]), (stdin[1], stdout[0], stderr[0])
        run = b"%s.0" % self.env[b"GM_RUN"]   # starts.PIPE: any of its jobs
        try:
            self.child = Child(self.settings.argv, {**self.env, b"GM_RUN": run},
                               [(DUP2, end, fd) for fd, end in enumerate(theirs)])
        except OSError as error:
            for fd in ours:
                os.close(fd)
            raise Unfit(f"{self.settings.argv[0]}: cannot run: {reason(error)}") from None
        finally:
            for fd in theirs:
                os.close(fd)
        self.stdin, self.stdout, self.stderr = ours
        for fd in ours:
            os.set_blocking(fd, False)
            try:
                fcntl.fcntl(fd, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE_SIZE)
            except OSError:
                pass   # the user's pipes are many
        self.outgoing: list = []          # bytes that the pipe has not taken yet
        self.offered = self.written = 0   # bytes that are meant for it, and those of them given to the pipe
        self.parts: list[bytes] = []      # of a line that has not ended yet
        self.size = 0                     # bytes of these
        self.speaking = True              # its stderr is open
        self.said, self.old = bytearray(), 0   # the end of that, and how much of it was there before its answer
        self.spoke = -NOISY               # time.monotonic() of the last word on stderr
        self.answers, self.reading = 0, False
        self.closed: str | None = None    # which end of the talk it has closed,
        self.closed_at = 0.0              # and when (time.monotonic())
        self.extra: dict = {}             # of the job that it is on
        self.outcome: Outcome | None = None   # of the job that it is on, while it is being ended for that
        self.unfit: str | None = None     # why it is being ended through no job's doing

    def _pipes(self):
        try:
            return pipes(3)
        except OSError as error:
            raise Unfit(f"{self.settings.argv[0]}: cannot run: {reason(error)}") from None

    def ready(self) -> bool:
        return self.child is not None and not self.child.ending

    @property
    def gone(self) -> bool:
        return self.child is None

    def watch(self) -> dict[int, int]:
        child = self.child
        if child is None:
            return {}
        found = {self.stderr: select.POLLIN} if self.speaking else {}
        if self.closed != "output":
            found[self.stdout] = select.POLLIN
        if child.ended >= 0:
            found[child.ended] = select.POLLIN
        if self.closed != "input" and not child.ending:
            found[self.stdin] = select.POLLOUT if self.outgoing else 0   # that nobody reads any more is told in any case
        return found

    def due(self, now: float) -> float | None:
        child = self.child
        if child is None:
            return self.start_at
        times = [child.due(now)]
        if self.closed:
            times.append(self.closed_at + LINGER)
        if self.given and self.settings.timeout is not None and not child.ending:
            times.append(self.began + self.settings.timeout)
            if not (self.answers or self.reading):
                times.append(now + 0.05)   # its first job's time begins when it reads that
        return min((at for at in times if at is not None), default=None)

    # ---- to it

    def room(self, ahead: int) -> int:
        if not self.ready() or self.closed or self.outgoing:
            return 0
        return (1 if time.monotonic() - self.spoke < NOISY else ahead) - len(self.given)

    def give(self, attempt) -> None:
        line = protocol.line_of(attempt)
        if not self.given:
            self.began, self.extra = time.monotonic(), {}
        attempt.offset = self.offered
        self.given.append(attempt)
        self.outgoing.append(line)
        self.offered += len(line)

    def flush(self) -> None:
        """Write the lines that were given, as far as they are taken."""
        while self.outgoing and not self.closed:
            data = memoryview(self.outgoing[0] if len(self.outgoing) == 1 else b"".join(self.outgoing))
            try:
                sent = os.write(self.stdin, data[:PIPE_SIZE])
            except BlockingIOError:
                return
            except OSError:
                self.outgoing = []
                self._close("input")
                return
            self.written += sent
            self.outgoing = [data[sent:]] if sent < len(data) else []

    def has_read(self, offset: int) -> bool:
        """Whether it has begun to read the line at that offset; the kernel knows what lies in the pipe."""
        try:
            unread, = struct.unpack("i", fcntl.ioctl(self.stdin, termios.FIONREAD, struct.pack("i", 0)))
        except OSError:
            unread = 0
        return self.written - unread > offset

    # ---- from it

    def attend(self, woken: list[int]) -> list[tuple]:
        child, found = self.child, []
        if child is None:
            return found
        if self.stderr in woken or self.stdout in woken:
            self.listen()   # what it says before an answer belongs to that job
        if self.stdout in woken:
            found = self.hear()
        if self.stdin in woken and not child.ending:
            if not self.outgoing:
                self._close("input")   # woken with nothing to write
            self.flush()
        if found:
            return found
        if (child.ended in woken or child.ended < 0 or self.closed) and child.look():
            return self.hear() or self.ended()   # its last words come first
        self.check_time()
        return found

    def listen(self) -> None:
        """Take in what it says on stderr."""
        self.old = len(self.said)
        while True:
            try:
                chunk = os.read(self.stderr, CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                self.speaking = False
                return
            self.said += chunk
            self.spoke = time.monotonic()
            if len(self.said) > 4 * STDERR_BYTES:
                del self.said[:-STDERR_BYTES]
                self.old = 0
            if len(chunk) < CHUNK:
                return

    def hear(self) -> list[tuple]:
        """The jobs that it has answered now."""
        found: list[tuple] = []
        try:
            for line in self.lines():
                if not self.child.ending:
                    self.take(protocol.parse(line), found)
        except Broken as error:
            self.break_off(str(error))
        return found

    def take(self, answer: dict, found: list) -> None:
        """Act on a line of it. Raises Broken."""
        if not self.given:
            raise Broken("it spoke without a job")
        attempt = self.given[0]
        protocol.take_extra(self.extra, answer.get("extra"))
        if "ok" not in answer:
            protocol.pass_on(attempt.assigned, answer)
            return
        if answer.get("handle", attempt.handle) != attempt.handle:
            raise Broken("it answered another job than the one it is on")
        outcome = protocol.outcome_of(answer, self.heard())
        now = time.monotonic()
        told = answer.get("duration")   # by COMMAND itself; else of answers read at once the first seems to take it all
        outcome.duration = told if type(told) in (int, float) and 0 <= told < 1e9 else now - self.began
        outcome.extra = self.extra
        self.began, self.extra = now, {}
        self.answers += 1
        self.pause = 0.0
        self.given.popleft()
        found.append((attempt, outcome))

    def heard(self) -> bytes:
        """What it said on stderr for the job that it has answered. What came together with the answer may be of the next job,
        where it has that already, and is kept."""
        said = bytes(self.said)
        del self.said[:self.old if len(self.given) > 1 else None]
        self.old = 0
        return said

    def lines(self) -> list[bytes]:
        """The whole lines that are here now. Raises Broken where one is too long."""
        found: list[bytes] = []
        size = CHUNK if not self.size else PIPE_SIZE
        while self.closed != "output":
            try:
                chunk = os.read(self.stdout, size)
            except BlockingIOError:
                break
            if not chunk:
                self._close("output")
                break
            if self.child.ending:
                return found
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

    # ---- its end

    def _close(self, what: str) -> None:
        """It does not read, or write, any more."""
        if self.closed is None:
            self.closed, self.closed_at = what, time.monotonic()

    def check_time(self) -> None:
        """See to a job that takes too long, to a COMMAND that does not talk any more, and to one that is being ended."""
        now, child, timeout = time.monotonic(), self.child, self.settings.timeout
        if child.ending:
            child.press(now)
        elif self.closed and now >= self.closed_at + LINGER:
            self.break_off(f"it closed its {self.closed}")
        elif self.given and timeout is not None:
            if not self.answers and not self.reading:
                if self.has_read(0):
                    self.reading, self.began = True, now   # until now it was starting
                elif now - self.began > timeout + STARTING:
                    self.unfit = f"it read no job in {timeout + STARTING:g} s"
                    child.terminate(self.settings.grace)
            elif now - self.began >= timeout:
                self.outcome = Outcome()
                self.outcome.timed_out = True
                child.terminate(self.settings.grace)

    def break_off(self, error: str) -> None:
        """End it, since it does not keep to the protocol; the job that it is on has failed."""
        if self.given:
            self.outcome = failure(error)
        else:
            self.unfit = error
        self.child.terminate(min(self.settings.grace, 1.0))

    def stop(self) -> None:
        if self.child:
            self.outcome = self.outcome or Outcome()
            self.outcome.stopped = True
            self.child.terminate(min(self.settings.grace, 1.0))

    def ended(self) -> list[tuple]:
        """It has ended: the job that it was on takes the blame, if it was on one. Raises Unfit."""
        outcome, unfit, tried = self.outcome, self.unfit, self.answers > 0
        began = bool(self.given) and (outcome is not None or self.has_read(self.given[0].offset))
        forced = self.child.ending
        status = self.collect()
        if not began or unfit:
            how = Outcome(status)
            why = unfit or ("ended" if tried else "ended before it read a job") + ": " + (
                f"killed by {how.signal}" if how.signal else self.last_words(how))
            raise Unfit(f"{self.settings.argv[0]}: {why}", tried)
        if not tried:
            self.pause = min(PAUSE_MAX, max(0.1, 2 * self.pause))
        self.start_at = time.monotonic() + self.pause
        if outcome is None:
            outcome = Outcome(status)
            if outcome.signal is None:
                outcome.verdict, outcome.error = "fail", self.last_words(outcome)
        outcome.stderr = tail(bytes(self.said))
        outcome.extra, outcome.duration, outcome.forced = self.extra, time.monotonic() - self.began, forced
        return [(self.given.popleft(), outcome)]

    def last_words(self, how: Outcome) -> str:
        said = last_line(bytes(self.said))
        if how.exit == 0:
            return "it ended without an answer" + (f": {said}" if said else "")
        return said or f"exit status {how.exit}"

    def collect(self) -> int:
        """Wait for its end, and close what is open; its status by waitpid()."""
        child, self.child = self.child, None
        child.reap()
        self.listen()
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        return child.status

    def finish(self) -> None:
        if self.child is None:
            return
        os.close(self.stdin)
        self.stdin = -1
        if self.wait(self.settings.grace):
            self.collect()
        else:
            self.end()

    def end(self) -> None:
        if self.child is None:
            return
        patience = min(self.settings.grace, 1.0)
        self.child.terminate(patience)
        self.wait(patience)
        self.child.press(float("inf"))
        self.collect()

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds, or as many as control leaves; what it still writes is dropped."""
        until = time.monotonic() + seconds
        poll = select.poll()
        for fd in (*((self.stderr,) if self.speaking else ()), *(() if self.closed == "output" else (self.stdout,)),
                   self.child.ended, self.control.fd):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        while not self.child.look():
            now, stop = time.monotonic(), self.control.deadline()
            left = (until if stop is None else min(until, stop)) - now
            if left <= 0:
                return False
            for fd, _ in poll.poll(int((left if self.child.ended >= 0 else min(left, 0.05)) * 1000) + 1):
                if fd == self.control.fd:
                    self.control.happened()
                elif fd == self.stderr:
                    if not self.drop(fd):
                        poll.unregister(fd)
                elif fd == self.stdout and not self.drop(fd):
                    poll.unregister(fd)
        return True

    def drop(self, fd: int) -> bool:
        """Read and forget; False at its end."""
        try:
            return bool(os.read(fd, PIPE_SIZE))
        except BlockingIOError:
            return True
