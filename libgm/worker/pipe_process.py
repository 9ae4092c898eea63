"""A worker in pipe mode: several jobs in hand, one COMMAND that is on the first of them (DESIGN, gm-work --pipe).

A job goes from the server's hands into .worker.jobs (fetched), .ready (its start is written), .given (its line is
written to COMMAND; the first of them is the one that COMMAND is on), .answered (done; its start is not ended yet, nor the
server told). Starts are ended and written for many jobs in one transaction. A failure is settled at once and alone.
How many are fetched follows their pace: what COMMAND does in SPAN. How many lines are given ahead is bounded by the
brake: a row of failures must not be longer than it allows.
"""

from __future__ import annotations

import collections
import time

from libgm.quarantine import starts
from libgm.shell.messages import warn
from libgm.shell.signals import Stopped
from libgm.worker import protocol
from libgm.worker.command import Command
from libgm.worker.process import EMPTY, RETIRED, WorkerProcess
from libgm.worker.protocol import Broken
from libgm.worker.run import Outcome, tail
from libgm.worker.settle import Attempt

SPAN = 0.02            # seconds of work to hold
MAX_WINDOW = 256       # jobs
WINDOW_BYTES = 4 << 20 # of payloads to ask for, by their mean size,
HOLD = 16 << 20        # and to have in hand before no more is received
COMPANY = 0.002        # seconds that an answer waits for others, to be settled with them
STARTING = 60.0        # seconds that COMMAND may take to read its first job, beyond the time of a job
PAUSE_MAX = 30.0       # seconds before a COMMAND that never answers is started again


class PipeWorker(WorkerProcess):
    """The loop of a worker process in pipe mode."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.command: Command | None = None
        self.start_at, self.pause = 0.0, 0.0      # time.monotonic() of COMMAND's next start, and the pause before it
        self.ready: collections.deque = collections.deque()
        self.given: collections.deque = collections.deque()
        self.suspects: collections.deque = collections.deque()   # had a start before, of a dead worker: run alone
        self.answered: list = []
        self.answered_at = 0.0                    # time.monotonic() of the first of these
        self.alone = False                        # a suspect is being run
        self.began = 0.0                          # time.monotonic(), of the first of .given
        self.extra: dict = {}                     # of the first of .given
        self.number = 0                           # of the last start
        self.full = False                         # so much is in hand that no more is received
        self.window, self.pace, self.size = 1, SPAN, 0.0   # jobs; mean seconds and bytes of one
        self.fate.before_pause = self.hand_back

    # ---- life

    def loop(self) -> int:
        self.control.on_term = self.fate.mark_released
        try:
            while True:
                self.control.happened()
                if not self.given and (self.closing() or (self.over() and not self.ready and not self.suspects)):
                    return self.wind_up(RETIRED)
                self.turn()
                if self.settings.until_empty and self.out_of_work():
                    return self.wind_up(EMPTY)
        finally:
            if self.command:
                self.command.end(min(self.settings.grace, 1.0), self.control)

    def closing(self) -> bool:
        """Whether nothing more is to be begun."""
        return bool(self.control.stopping or self.control.retired or
                    (self.expires is not None and time.monotonic() >= self.expires))

    def out_of_work(self) -> bool:
        if self.given or self.ready or self.suspects or self.worker.jobs:
            return False
        if self.worker.down and not self.worker.connection_to_handler_map:
            raise self.worker.down_error()
        return self.worker.idle and not self.release_now()

    def wind_up(self, status: int) -> int:
        """Settle what is done, give the rest back, and let COMMAND clean up; status."""
        self.hand_back()
        self.worker.drain(5.0)
        self.worker.close()
        command, self.command = self.command, None
        if command:
            command.finish(self.settings.grace, self.control)
        return status

    def turn(self) -> None:
        """Once round: begin what can be begun, wait for something to happen, see to it."""
        if self.command is None:
            self.start()
        self.feed()
        self.prepare()
        if not self.given:
            self.feed()
        self.worker.window = self.wanted()
        wake = {self.control.fd: 1, self.control.parent_fd: 1}
        if self.command:
            wake.update(self.command.wake())
        waiting = len(self.worker.jobs)
        woken = self.worker.attend(self.wait(), wake, not self.full)
        if self.full or len(self.worker.jobs) > waiting:
            self.full = self.held() >= HOLD
        self.report_servers()
        if woken:
            self.heed(woken)
        self.see_end(woken)
        self.check_time()
        if self.answered and (not (self.given or self.ready) or len(self.answered) * 2 > self.window or
                              time.monotonic() - self.answered_at > COMPANY):
            self.settle_done()

    def wanted(self) -> int:
        """Jobs to have fetched or asked for: in whole handfuls, not one by one."""
        if self.command is None or self.over():
            return 0
        free = self.window - len(self.ready) - len(self.given) - len(self.suspects)
        if free * 2 < self.window:
            return 0
        if self.settings.max_jobs:
            free = min(free, self.settings.max_jobs - self.runs - len(self.ready) - len(self.suspects))
        return free

    def held(self) -> int:
        """Bytes of payloads in hand."""
        return sum(len(assigned.data) for assigned in self.worker.jobs if isinstance(assigned.data, bytes)) + \
            sum(len(attempt.data) for jobs in (self.ready, self.given, self.suspects) for attempt in jobs)

    def wait(self) -> float:
        """Seconds until something is due by the clock."""
        now, due = time.monotonic(), []
        if self.answered:
            due.append(self.answered_at + COMPANY)
        if self.expires is not None and self.expires > now:   # after that it is the job in hand that is waited for
            due.append(self.expires)
        if self.command is None:
            due.append(self.start_at)
        elif self.given:
            if self.settings.timeout is not None:
                due.append(self.began + self.settings.timeout)
                if not (self.command.answers or self.command.reading):
                    due.append(now + 0.05)   # whether it has begun to read is to be seen in time
            if self.command.ended < 0:
                due.append(now + 0.05)
            if self.control.deadline() is not None:
                due.append(self.control.deadline())
        return max(0.0, min(due, default=now + 60) - now)

    # ---- to COMMAND

    def start(self) -> None:
        if time.monotonic() < self.start_at or self.closing():
            return
        try:
            self.command = Command(self.settings.argv, {**self.base_env, "GM_RUN": f"{self.store.tag}.{self.store.process}.{starts.PIPE}"})
        except OSError as error:
            self.start_at = time.monotonic() + self.fate.unfit_for(self.cannot_run(error))

    def prepare(self) -> None:
        """Write the starts of what was fetched, once what is ready runs low; with the same transaction settle what is done."""
        fetched = self.worker.jobs
        if not fetched or self.command is None or self.suspects or self.closing() or \
                2 * (len(self.ready) + len(self.given)) > self.window:
            return
        coming = []
        while fetched:
            self.number += 1
            attempt = Attempt(fetched.popleft(), self.number, self.settings)
            if attempt.spool is None:
                coming.append(attempt)
            else:
                self.fate.too_large(attempt)
        if not coming:
            return
        self.size += (sum(len(attempt.data) for attempt in coming) / len(coming) - self.size) * 0.3
        suspects = self.settle_done(coming)
        if suspects:
            self.fate.transact(False, (starts.end, *suspects))
        for attempt in coming:
            (self.suspects if attempt.run in suspects else self.ready).append(attempt)

    def feed(self) -> None:
        """Give COMMAND what it may have, as far as it reads."""
        if self.command is None or self.command.outgoing or self.closing() or (self.alone and self.given):
            return
        if not self.given:
            self.alone = False
            if self.suspects and not self.ready:
                self.try_alone(self.suspects.popleft())
                return
        brake = self.fate.brake
        ahead = 1 if self.command.noisy() else max(1, brake.limit - brake.row) if brake.limit else self.window
        idle, lost = not self.given, []
        while self.ready and len(self.given) < ahead:
            attempt = self.ready.popleft()
            if attempt.assigned.lost:
                lost.append(attempt.run)   # its server hands it out again
                continue
            self.give(attempt)
        if lost:
            self.fate.transact(False, (starts.end, *lost))
        if idle and self.given:
            self.next_is_on()
        if self.command.outgoing:
            self.command.write()

    def give(self, attempt: Attempt) -> None:
        attempt.offset = self.command.give(protocol.line_of(attempt))
        self.given.append(attempt)
        self.runs += 1

    def try_alone(self, attempt: Attempt) -> None:
        """Run a job that a dead worker had in hand, nothing ahead of it: if it is a killer, it is the one that counts."""
        self.settle_done()
        if not self.fate.begin_again(attempt):
            return
        self.alone = True
        self.give(attempt)
        self.next_is_on()
        self.command.write()

    def next_is_on(self) -> None:
        """The first of .given is what COMMAND is on from now on."""
        self.began, self.extra = time.monotonic(), {}
        run = self.given[0].run if self.given else 0
        self.fate.persist(lambda: starts.note(self.store, run, self.alone))

    # ---- from COMMAND

    def heed(self, woken: list[int]) -> None:
        """See to what woke us."""
        if self.control.fd in woken:
            self.control.happened()
        if self.control.parent_fd in woken:
            self.control.retired = True
        command = self.command
        if command is None:
            return
        if command.stdin in woken:
            command.write()
        if command.stderr in woken or command.stdout in woken:
            command.listen()   # what it says before an answer belongs to that job
        if command.stdout in woken:
            self.hear()
    def hear(self) -> None:
        """Take in the answers that are here."""
        before, count = self.began, 0
        try:
            for line in self.command.lines():
                count += self.take(protocol.parse(line))
        except Broken as error:
            self.break_off(error)
            return
        if count:
            now = time.monotonic()
            self.pace += ((now - before) / count - self.pace) * 0.3
            limit = min(MAX_WINDOW, SPAN / max(self.pace, 1e-6), WINDOW_BYTES / max(self.size, 1.0))
            self.window = max(1, min(int(limit), self.window * 2))
            self.next_is_on()

    def take(self, answer: dict) -> bool:
        """Act on a line of COMMAND; whether it was the answer to a job. Raises Broken."""
        if not self.given:
            raise Broken("it spoke without a job")
        attempt, command = self.given[0], self.command
        protocol.take_extra(self.extra, answer.get("extra"))
        if "ok" not in answer:
            protocol.pass_on(attempt.assigned, answer)
            return False
        if answer.get("handle", attempt.handle) != attempt.handle:
            raise Broken("it answered another job than the one it is on")
        outcome = protocol.outcome_of(answer, command.heard(len(self.given) > 1))
        now = time.monotonic()
        told = answer.get("duration")   # by COMMAND itself; else of answers read at once the first seems to take it all
        outcome.duration = told if type(told) in (int, float) and 0 <= told < 1e9 else now - self.began
        outcome.extra = self.extra
        self.began, self.extra = now, {}
        command.answers += 1
        self.pause = 0.0
        self.fate.unfit.over()
        self.given.popleft()
        self.watch_memory(len(attempt.data) + len(outcome.stdout), outcome.overflow)
        if outcome.verdict == "done" and not outcome.overflow:
            if not self.answered:
                self.answered_at = now
            self.answered.append((attempt, outcome))
        else:
            self.settle_done()
            self.fate.settle(attempt, outcome)   # still the one we are on: what ends us now is its doing
        return True

    # ---- ends

    def settle_done(self, coming: list = ()) -> list[int]:
        """Settle what is done, with the starts of what comes next; the runs among those that are suspects."""
        done, self.answered = self.answered, []
        if not (done or coming):
            return []
        suspects = self.fate.turn_over(done, coming)
        self.fate.answer_done()
        return suspects

    def hand_back(self) -> None:
        """Give back, uncounted, what COMMAND was not on."""
        self.settle_done()
        if self.ready:
            self.fate.transact(False, (starts.end, *(attempt.run for attempt in self.ready)))
        if self.ready or self.suspects or self.worker.asking():
            self.ready.clear()
            self.suspects.clear()
            self.worker.release()

    def see_end(self, woken: list[int]) -> None:
        """See whether COMMAND has ended, or will not talk any more."""
        command = self.command
        if command is None or not (command.ended in woken or command.closed or command.ended < 0):
            return
        if command.poll() or (command.closed and command.wait(1.0, self.control)):
            self.died()
        elif command.closed:
            self.break_off(Broken(f"it closed its {command.closed}"))

    def check_time(self) -> None:
        """See to a job that takes too long, and to a stop that cannot wait for it."""
        command, now, timeout = self.command, time.monotonic(), self.settings.timeout
        if command is None or not self.given:
            return
        stop = self.control.deadline()
        if stop is not None and now >= stop:
            self.stop()
        if timeout is None:
            return
        if not command.answers and not command.reading:
            if command.has_read(0):
                command.reading, self.began = True, now   # its time begins here: COMMAND was starting
            elif now - self.began > timeout + STARTING:
                command.end(self.settings.grace, self.control)
                self.not_its_fault(f"it read no job in {timeout + STARTING:g} s")
        elif now - self.began >= timeout:
            command.end(self.settings.grace, self.control)
            outcome = command.death()
            outcome.timed_out = True
            self.take_blame(outcome)

    def stop(self) -> None:
        """Stop COMMAND now; the job it is on was marked as released. Raises Stopped."""
        self.command.end(min(self.settings.grace, 1.0), self.control)
        self.settle_done()
        attempt = self.given.popleft()
        self.fate.emit("release", attempt, attempt.before, Outcome(), None, "told to stop")
        self.fate.transact(False, (starts.end, *(other.run for jobs in (self.given, self.ready) for other in jobs)))
        raise Stopped

    def break_off(self, error: Broken) -> None:
        """End a COMMAND that does not keep to the protocol; the job it is on has failed."""
        self.command.end(min(self.settings.grace, 1.0), self.control)
        outcome = Outcome(stderr=tail(bytes(self.command.said)))
        outcome.verdict, outcome.error = "fail", str(error)
        if self.given:
            self.take_blame(outcome)
        else:
            self.not_its_fault(str(error))

    def died(self) -> None:
        """COMMAND has ended by itself: the job that it was on takes the blame, if it was on one."""
        command = self.command
        if command.closed != "output":
            self.hear()
            if command is not self.command:
                return
        began = bool(self.given) and command.has_read(self.given[0].offset)
        command.collect()
        outcome = command.death()
        if began:
            self.take_blame(outcome)
        else:
            how = f"killed by {outcome.signal}" if outcome.signal else outcome.error
            self.not_its_fault(f"ended: {how}" if command.answers else f"ended before it read a job: {how}")

    def take_blame(self, outcome: Outcome) -> None:
        """The first of .given has brought COMMAND down: settle it so; the others go back."""
        if not self.command.answers:
            self.pause = min(PAUSE_MAX, max(0.1, 2 * self.pause))
        self.start_at = time.monotonic() + self.pause
        self.command, self.window = None, 1
        self.settle_done()
        attempt = self.given.popleft()
        outcome.extra, outcome.duration = self.extra, time.monotonic() - self.began
        self.ready.extendleft(reversed(self.given))
        self.given.clear()
        self.fate.settle(attempt, outcome)
        self.next_is_on()
        self.hand_back()

    def not_its_fault(self, why: str) -> None:
        """COMMAND ended through no job's doing: what is in hand goes back uncounted, and the worker pauses."""
        answers, self.command, self.window = self.command.answers, None, 1
        self.settle_done()
        why = f"{self.settings.argv[0]}: {why}"
        first = self.given[0] if self.given else None
        self.ready.extendleft(reversed(self.given))
        self.given.clear()
        try:
            if answers:
                warn(f"{why}: starting it again")
                pause = 0.0
            elif first:
                self.ready.popleft()
                pause = self.fate.give_back(first, why)
            else:
                pause = self.fate.unfit_for(why)
        finally:
            self.hand_back()
        self.start_at = time.monotonic() + pause
