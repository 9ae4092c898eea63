"""Starting a command in its own process group."""

from __future__ import annotations

import os
import signal
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
