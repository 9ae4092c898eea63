"""COMMAND as a process in a process group of its own: how it is started, how it ends, how it is ended."""

from __future__ import annotations

import os
import signal
import time
from functools import lru_cache

DUP2 = getattr(os, "POSIX_SPAWN_DUP2", None)   # kind of an action (kind, descriptor, number that it gets)
# Signals that Python, the parent or whoever started it may have ignored: a job gets them at their defaults.
NORMAL_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD]
TICK = 0.05          # seconds between two looks at a process where no descriptor tells its end
INSIST = 1.0         # seconds between two SIGKILLs


class Child:
    """A running COMMAND. Raises OSError where it cannot be started.

    actions: what its descriptors are, each (DUP2, descriptor here, number there). .ended is a descriptor that is readable once
    it has ended, -1 where the platform has none; .status is that of waitpid(), None while it runs.
    """

    __slots__ = ("pid", "ended", "status", "kill_at")

    def __init__(self, argv: list[str], env: dict, actions: list):
        self.status: int | None = None
        self.kill_at: float | None = None   # time.monotonic(); set once it is being ended
        self.pid = spawn(argv, env, actions)
        try:
            self.ended = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            self.ended = -1

    def look(self) -> bool:
        """Whether it has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None

    @property
    def ending(self) -> bool:
        return self.kill_at is not None

    def terminate(self, grace: float) -> None:
        """Send TERM to its group now; press() sends KILL after the grace (seconds)."""
        end_group(self.pid, signal.SIGTERM)
        self.kill_at = time.monotonic() + grace

    def press(self, now: float) -> None:
        """Send the KILL that is due."""
        if self.kill_at is not None and now >= self.kill_at:
            end_group(self.pid, signal.SIGKILL)
            self.kill_at = now + INSIST

    def due(self, now: float) -> float | None:
        """time.monotonic() at which it must be looked at again, None where its descriptor tells."""
        return now + TICK if self.ended < 0 else self.kill_at

    def reap(self) -> int:
        """Wait until it has ended, kill what is left of its group where it was ended by us, and close the descriptor; its status."""
        while self.status is None:
            self.status = os.waitpid(self.pid, 0)[1]
        if self.kill_at is not None:
            end_group(self.pid, signal.SIGKILL)
        if self.ended >= 0:
            os.close(self.ended)
            self.ended = -1
        return self.status


def pipes(count: int) -> list[tuple[int, int]]:
    """So many pipes, each (end to read, end to write). Raises OSError, and leaves none open then."""
    found: list[tuple[int, int]] = []
    try:
        while len(found) < count:
            found.append(os.pipe())
    except OSError:
        for ends in found:
            for fd in ends:
                os.close(fd)
        raise
    return found


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


def end_group(pid: int, sig: int) -> None:
    """Send sig to the process group of a job; TERM with CONT, so that a stopped one can act on it."""
    try:
        os.killpg(pid, sig)
        if sig == signal.SIGTERM:
            os.killpg(pid, signal.SIGCONT)
    except (ProcessLookupError, PermissionError):
        pass
