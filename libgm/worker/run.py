"""Running a job in a child: a process per job in its own process group, payload in, result out, limits kept."""

from __future__ import annotations

import os
import select
import signal
import time
from functools import lru_cache

DUP2 = getattr(os, "POSIX_SPAWN_DUP2", None)   # kind of an action (kind, descriptor, number that it gets)
NORMAL_SIGNALS = [signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD]


def spawn(argv: list[str], env: dict, actions: list) -> int:
    """Start argv[0] (looked up in PATH) in its own process group with normal signals; its pid. Raises OSError."""
    if DUP2 is None:
        return fork(argv, env, actions)
    how = {"file_actions": actions, "setpgroup": 0, "setsigmask": [], "setsigdef": NORMAL_SIGNALS}
    try:
        return os.posix_spawn(find(argv[0]), argv, env, **how)
    except FileNotFoundError:   # it has moved, or is nowhere
        find.cache_clear()
        return os.posix_spawnp(argv[0], argv, env, **how)


@lru_cache(None)
def find(name: str) -> str:
    """Where PATH has a command, looked up once: each directory in which it is not would cost every job a failed exec."""
    import shutil
    return shutil.which(name) or name


def fork(argv: list[str], env: dict, actions: list) -> int:
    """spawn() where there is no posix_spawn (PyPy): by hand, and slower."""
    failed, tell = os.pipe()   # closed by exec
    pid = os.fork()
    if not pid:
        try:
            os.setpgid(0, 0)
            for number in NORMAL_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            for _, descriptor, number in actions:
                os.dup2(descriptor, number)
            os.execvpe(argv[0], argv, env)
        except OSError as error:
            os.write(tell, b"%d" % error.errno)
        finally:
            os._exit(127)
    os.close(tell)
    with open(failed, "rb") as reader:
        why = reader.read()
    if why:
        os.waitpid(pid, 0)
        raise OSError(int(why), os.strerror(int(why)))
    return pid


MAX_OUTPUT = 64 << 20       # bytes of a result; more fails the job (DESIGN, rule 10)
STDERR_BYTES = 10_000       # of the end of stderr that is kept,
STDERR_LINES = 50           # and lines of it
MAX_EXTRA = 256 << 10       # bytes read from fd 3
CHUNK = 1 << 16
BRIEF = 2                   # ms in which only a job's end wakes us, not each descriptor that it closes on the way there


class Outcome:
    """How a run ended.

    exit (int) or signal (name, "SIGKILL"), the other None; stdout, stderr (bytes, its end), extra (dict, from fd 3),
    duration (seconds); timed_out, overflow (its output was too large), stopped (we ended it, it is to be released);
    in pipe mode verdict (done, fail, retry, dead or drop; None where it gave none), error and delay (seconds or None).
    """

    __slots__ = ("exit", "signal", "stdout", "stderr", "extra", "duration", "timed_out", "overflow", "stopped",
                 "verdict", "error", "delay")

    def __init__(self, status: int | None = None, stdout: bytes = b"", stderr: bytes = b""):
        self.exit = self.signal = None
        if status is not None:
            self.read_status(status)
        self.stdout, self.stderr, self.extra, self.duration = stdout, stderr, {}, 0.0
        self.timed_out = self.overflow = self.stopped = False
        self.verdict = self.error = self.delay = None

    def read_status(self, status: int) -> None:
        """Take in a status of waitpid()."""
        if os.WIFSIGNALED(status):
            self.signal = signal_name(os.WTERMSIG(status))
        else:
            self.exit = os.WEXITSTATUS(status)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def tail(data: bytes) -> bytes:
    """The last lines of stderr that a record keeps."""
    return b"\n".join(data[-STDERR_BYTES:].rstrip(b"\n").split(b"\n")[-STDERR_LINES:])


def end_group(pid: int, sig: int) -> None:
    """Send sig to the process group of a job; TERM with CONT, so that a stopped one can act on it."""
    try:
        os.killpg(pid, sig)
        if sig == signal.SIGTERM:
            os.killpg(pid, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        pass


def extras(data: bytes) -> dict:
    """The JSON objects on the lines of data, merged; what is not one is passed over."""
    found: dict = {}
    if data:
        import json
        for line in data.split(b"\n"):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                found.update(value)
    return found


def exit_fd(pid: int) -> int:
    """A descriptor that is readable when pid has ended; -1 where the platform has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def run(argv: list[str], env: dict, data: bytes, timeout: float | None, grace: float, control, started, ended) -> Outcome:
    """Run a job to its end.

    timeout and grace in seconds: TERM at the one, KILL after the other. control.fd becomes readable when something
    happened that control.deadline(), a time.monotonic() by which the job must be stopped or None, may tell.
    started() is called when it runs, ended(status of waitpid) as soon as it has ended by itself. Raises OSError where the
    command cannot be started.
    """
    stdin, feed = os.pipe()
    ends = [os.pipe() for _ in range(3)]   # stdout, stderr, extras
    try:
        began = time.monotonic()
        pid = spawn(argv, env, [(DUP2, stdin, 0)] + [(DUP2, end[1], fd) for fd, end in enumerate(ends, 1)])
    except OSError:
        for fd in (feed, *(end[0] for end in ends)):
            os.close(fd)
        raise
    finally:
        os.close(stdin)
        for end in ends:
            os.close(end[1])
    return Run(pid, feed, [end[0] for end in ends], data, began, timeout, grace).wait(control, started, ended)


class Run:
    """A job's process under way: feeds, reads and ends it."""

    def __init__(self, pid, feed, reads, data, began, timeout, grace):
        self.pid, self.feed, self.data, self.grace, self.began = pid, feed, memoryview(data), grace, began
        self.stdout, self.stderr, self.extra, self.size = [], bytearray(), bytearray(), 0
        self.takers = dict(zip(reads, (self.take_stdout, self.take_stderr, self.take_extra)))
        self.ends = None if timeout is None else began + timeout   # when the next signal is sent
        self.outcome, self.termed = Outcome(), False
        for fd in (feed, *reads):
            os.set_blocking(fd, False)

    def take_stdout(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.size <= MAX_OUTPUT:
            self.stdout.append(chunk)
        elif not self.outcome.overflow:
            self.outcome.overflow = True
            self.stdout.clear()
            self.terminate()

    def take_stderr(self, chunk: bytes) -> None:
        self.stderr += chunk
        if len(self.stderr) > 4 * STDERR_BYTES:
            del self.stderr[:-STDERR_BYTES]

    def take_extra(self, chunk: bytes) -> None:
        if len(self.extra) < MAX_EXTRA:
            self.extra += chunk

    def terminate(self, grace: float | None = None) -> None:
        """TERM now, KILL after the grace (seconds)."""
        end_group(self.pid, signal.SIGTERM)
        self.termed, self.ends = True, time.monotonic() + (self.grace if grace is None else grace)

    def write(self) -> bool:
        """Feed stdin as far as it takes; True when that is over, also where the child has closed it."""
        try:
            while self.data:
                self.data = self.data[os.write(self.feed, self.data[:1 << 20]):]
        except BlockingIOError:
            return False
        except OSError:
            pass
        os.close(self.feed)
        self.feed = -1
        return True

    def read(self, fd: int) -> bool:
        """Take what is there on fd, but of a fast writer's no more than what keeps no signal waiting; False at its end."""
        try:
            for _ in range(16):
                chunk = os.read(fd, CHUNK)
                if not chunk:
                    return False
                self.takers[fd](chunk)
                if len(chunk) < CHUNK:
                    break
        except BlockingIOError:
            pass
        return True

    def wait(self, control, started, ended) -> Outcome:
        """Until the process has ended: who else holds its output does not keep us."""
        exits, status = exit_fd(self.pid), None
        fed, open_reads = self.write(), set(self.takers)
        try:
            started()
            if fed and exits >= 0:
                status = self.wait_briefly(exits, control)
            if status is None:
                poll = select.poll()
                for fd in (*open_reads, control.fd, *([exits] if exits >= 0 else ())):
                    poll.register(fd, select.POLLIN)
                if not fed:
                    poll.register(self.feed, select.POLLOUT)
            while status is None:
                for fd, _ in poll.poll(self.next_wait(control, exits < 0)):
                    if fd == self.feed:
                        if self.write():
                            poll.unregister(fd)
                    elif fd in open_reads:
                        if not self.read(fd):
                            poll.unregister(fd)
                            open_reads.discard(fd)
                    elif fd == control.fd:
                        control.happened()
                status = self.look()
            if not self.termed:
                ended(status)
            for fd in open_reads:
                self.read(fd)
        finally:
            for fd in (exits, self.feed, *self.takers):
                if fd >= 0:
                    os.close(fd)
        return self.finish(status)

    def wait_briefly(self, exits: int, control) -> int | None:
        """look(), after a moment in which only its end or a signal wakes us."""
        poll = select.poll()
        poll.register(exits, select.POLLIN)
        poll.register(control.fd, select.POLLIN)
        return self.look() if poll.poll(BRIEF) else None

    def look(self) -> int | None:
        """Its status by waitpid(), None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return status if pid else None

    def next_wait(self, control, ticking: bool) -> int | None:
        """Send what signals are due; milliseconds until the next one."""
        now, stop = time.monotonic(), control.deadline()
        if stop is not None and now >= stop and not self.outcome.stopped:
            self.outcome.stopped = True
            self.terminate(min(self.grace, 1.0))
        if self.ends is not None and now >= self.ends:
            if self.termed:
                end_group(self.pid, signal.SIGKILL)
                self.ends = now + 1.0
            else:
                self.outcome.timed_out = True
                self.terminate()
        times = [at for at in (self.ends, None if self.outcome.stopped else stop) if at is not None]
        wait = None if not times else max(0, int((min(times) - now) * 1000) + 1)
        return min(wait or 50, 50) if ticking else wait

    def finish(self, status: int) -> Outcome:
        outcome = self.outcome
        outcome.read_status(status)
        outcome.duration = time.monotonic() - self.began
        outcome.stdout, outcome.stderr = b"".join(self.stdout), tail(bytes(self.stderr))
        outcome.extra = extras(bytes(self.extra[:MAX_EXTRA]))
        if self.termed:
            end_group(self.pid, signal.SIGKILL)   # what is left of a group that we ended
        return outcome
