"""COMMAND of gm-work --pipe: one process that is given a record per line and answers a line per job. gm-work(1), PIPE MODE.

It may have several lines at once; the job that it is on is the first without an answer.
"""

from __future__ import annotations

import os
import select
import time

from libgm.errors import reason
from libgm.worker import protocol
from libgm.worker.child import DUP2, Child, pipes
from libgm.worker.command import Command, Unfit, failure
from libgm.worker.outcome import Outcome, last_line, tail
from libgm.worker.protocol import Broken
from libgm.worker.streams import LineReader, LineWriter, StderrReader

NOISY = 1.0            # seconds after a word on stderr in which COMMAND is given one job at a time, to tell whose it is
STARTING = 60.0        # seconds that COMMAND may take to read its first job, beyond the time of a job
STARTED = 0.05         # seconds between two looks at whether it has
LINGER = 1.0           # seconds from the end of its output, or of its reading, to its own end
PAUSE_MAX = 30.0       # seconds before a COMMAND that never answers is started again


class PipeCommand(Command):
    """COMMAND as a process that stays."""

    child: Child | None = None
    pause = 0.0            # seconds before the next start, after ends without any answer

    def start(self) -> None:
        if self.child or time.monotonic() < self.start_at:
            return
        try:
            stdin, stdout, stderr = pipes(3)
            try:
                self.child = Child(self.settings.argv, {**self.env, b"GM_RUN": b"%s.0" % self.env[b"GM_RUN"]},
                                   [(DUP2, stdin[0], 0), (DUP2, stdout[1], 1), (DUP2, stderr[1], 2)])
            finally:
                for fd in (stdin[0], stdout[1], stderr[1], *(() if self.child else (stdin[1], stdout[0], stderr[0]))):
                    os.close(fd)
        except OSError as error:
            raise Unfit(f"{self.settings.argv[0]}: cannot run: {reason(error)}") from None
        self.stdin, self.stdout, self.stderr = LineWriter(stdin[1]), LineReader(stdout[0]), StderrReader(stderr[0])
        self.answers, self.reading = 0, False
        self.closed_at: float | None = None   # time.monotonic() when it closed an end of the talk
        self.extra: dict = {}                 # of the job that it is on
        self.outcome: Outcome | None = None   # of the job that it is on, while it is being ended for that
        self.unfit: str | None = None         # why it is being ended through no job's doing

    def ready(self) -> bool:
        return self.child is not None and not self.child.ending

    @property
    def gone(self) -> bool:
        return self.child is None

    def watch(self) -> dict[int, int]:
        child = self.child
        if child is None:
            return {}
        found = {stream.fd: select.POLLIN for stream in (self.stdout, self.stderr) if stream.open}
        if child.ended >= 0:
            found[child.ended] = select.POLLIN
        if self.stdin.open and not child.ending:
            found[self.stdin.fd] = select.POLLOUT if self.stdin.outgoing else 0   # that nobody reads any more is told in any case
        return found

    def due(self, now: float) -> float | None:
        child = self.child
        if child is None:
            return self.start_at
        times = [child.due(now)]
        if self.closed_at is not None:
            times.append(self.closed_at + LINGER)
        if self.given and self.settings.timeout is not None and not child.ending:
            times.append(self.began + self.settings.timeout)
            if not (self.answers or self.reading):
                times.append(now + STARTED)   # its first job's time begins when it reads that
        return min((at for at in times if at is not None), default=None)

    # ---- to it

    def room(self, ahead: int) -> int:
        if not self.ready() or not self.stdin.open or self.stdin.outgoing:
            return 0
        return (1 if time.monotonic() - self.stderr.spoke < NOISY else ahead) - len(self.given)

    def give(self, attempt) -> None:
        if not self.given:
            self.began, self.extra = time.monotonic(), {}
        attempt.offset = self.stdin.put(protocol.line_of(attempt))
        self.given.append(attempt)

    def flush(self) -> None:
        self.stdin.flush()

    # ---- from it

    def attend(self, woken: list[int]) -> list[tuple]:
        child = self.child
        if child is None:
            return []
        found = []
        if self.stderr.fd in woken or self.stdout.fd in woken:
            self.stderr.listen()   # what it says before an answer belongs to that job
        if self.stdout.fd in woken:
            found = self.hear()
        if self.stdin.fd in woken:
            self.stdin.open = self.stdin.open and bool(self.stdin.outgoing)   # woken with nothing to write: nobody reads
            self.stdin.flush()
        if found:
            return found
        if self.closed_at is None and not (self.stdin.open and self.stdout.open):
            self.closed_at = time.monotonic()
        if (child.ended in woken or child.ended < 0 or self.closed_at is not None) and child.look():
            return self.hear() or self.ended()   # its last words come first
        self.check_time()
        return []

    def hear(self) -> list[tuple]:
        """The jobs that it has answered now; while it is being ended, what it says is dropped."""
        found: list[tuple] = []
        if self.child.ending:
            self.stdout.skip()
            return found
        try:
            for line in self.stdout.lines():
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
        outcome = protocol.outcome_of(answer, self.stderr.heard(len(self.given) > 1))
        now = time.monotonic()
        told = answer.get("duration")   # by COMMAND itself; else of answers read at once the first seems to take it all
        outcome.duration = told if type(told) in (int, float) and 0 <= told < 1e9 else now - self.began
        outcome.extra = self.extra
        self.began, self.extra = now, {}
        self.answers += 1
        self.pause = 0.0
        self.given.popleft()
        found.append((attempt, outcome))

    # ---- its end

    def check_time(self) -> None:
        """See to a job that takes too long, to a COMMAND that does not talk any more, and to one that is being ended."""
        now, child, timeout = time.monotonic(), self.child, self.settings.timeout
        if child.ending:
            child.press(now)
        elif self.closed_at is not None and now >= self.closed_at + LINGER:
            self.break_off("it closed its " + ("input" if self.stdout.open else "output"))
        elif self.given and timeout is not None:
            if not self.answers and not self.reading:
                if self.stdin.has_read(0):
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
        outcome, unfit, tried, forced = self.outcome, self.unfit, self.answers > 0, self.child.ending
        began = bool(self.given) and (outcome is not None or self.stdin.has_read(self.given[0].offset))
        status = self.collect()
        if unfit or not began:
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
        outcome.stderr = tail(bytes(self.stderr.said))
        outcome.extra, outcome.duration, outcome.forced = self.extra, time.monotonic() - self.began, forced
        return [(self.given.popleft(), outcome)]

    def last_words(self, how: Outcome) -> str:
        """The error of a COMMAND that ended with an exit status."""
        said = last_line(bytes(self.stderr.said))
        if how.exit == 0:
            return "it ended without an answer" + (f": {said}" if said else "")
        return said or f"exit status {how.exit}"

    def collect(self) -> int:
        """Wait for its end, and close what is open; its status by waitpid()."""
        child, self.child = self.child, None
        status = child.reap()
        self.stderr.listen()
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()
        return status

    def finish(self) -> None:
        if self.child:
            self.stdin.close()
            if self.wait(self.settings.grace):
                self.collect()

    def end(self) -> bool:
        running = self.child is not None
        if running:
            patience = min(self.settings.grace, 1.0)
            self.child.terminate(patience)
            self.wait(patience)
            self.child.press(float("inf"))
            self.collect()
        return running

    def wait(self, seconds: float) -> bool:
        """Whether it ends within so many seconds, or as many as control leaves; what it still writes is dropped."""
        until, child = time.monotonic() + seconds, self.child
        while not child.look():
            stop = self.control.deadline()
            left = (until if stop is None else min(until, stop)) - time.monotonic()
            if left <= 0:
                return False
            poll, streams = select.poll(), {stream.fd: stream for stream in (self.stdout, self.stderr) if stream.open}
            for fd in (*streams, self.control.fd, *((child.ended,) if child.ended >= 0 else ())):
                poll.register(fd, select.POLLIN)
            for fd, _ in poll.poll(int((left if child.ended >= 0 else min(left, STARTED)) * 1000) + 1):
                if fd == self.control.fd:
                    self.control.happened()
                elif fd in streams:
                    streams[fd].skip()
        return True
