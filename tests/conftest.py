"""A real gearmand, the real tools, and nothing of the machine's own settings: what every test stands on."""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SBIN = "/usr/local/sbin:/usr/sbin:/opt/homebrew/sbin"
NO_SERVER = "127.0.0.1:1"
_claims: list[socket.socket] = []   # for the life of this process


def pytest_configure(config):
    """Give the tests, and all that they start, the same surroundings whoever runs them; refuse a machine where all would fail."""
    os.umask(0o022)
    os.environ["LC_ALL"] = "C.UTF-8"   # the workers of pytest-xdist start after this
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:   # subprocess restores these two itself
        if signal.getsignal(number) is signal.SIG_IGN:   # under nohup, or in `make test &`
            signal.signal(number, lambda *_: None)   # a handler becomes the default in a program that is started
    if not hasattr(config, "workerinput"):
        check_machine(config.getoption("numprocesses", None))
        compileall.compile_dir(ROOT / "libgm", quiet=2)   # the tools, which write no bytecode, start in half the time


def check_machine(workers) -> None:
    """Raise UsageError where the locale of this process or the directory for temporary files is of no use."""
    if sys.getfilesystemencoding() != "utf-8" and not workers:
        raise pytest.UsageError("the locale is not UTF-8: set LC_ALL=C.UTF-8")
    folder = os.environ.get("TMPDIR") or tempfile.gettempdir()
    if not os.path.isdir(folder):
        raise pytest.UsageError(f"TMPDIR={folder}: no such directory")
    try:
        with tempfile.TemporaryDirectory(dir=folder) as made:
            script = Path(made, "script")
            script.write_text("#!/bin/sh\n")
            script.chmod(0o755)
            subprocess.run([script], check=True)
    except OSError as error:
        raise pytest.UsageError(f"{folder}: cannot make and run a program there: {error.strerror.lower()}: "
                                "set TMPDIR to another directory") from None


def pytest_collection_modifyitems(config, items):
    """Longest first, by the seconds in their marks: a share of them for each worker of pytest-xdist."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: -max((sum(mark.args) for mark in item.iter_markers("slow")), default=-1))
        workers = config.workerinput["workercount"]
        items[:] = [item for first in range(workers) for item in items[first::workers]]


def until(predicate, timeout: float = 20, what: str = "", longest: float = 0.2):
    """The first true value of predicate(), polled every longest seconds at least; fails the test after timeout seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.005
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s: {what or getattr(predicate, '__name__', predicate)}")
        time.sleep(pause)
        pause = min(pause * 1.5, longest)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that no other test run on this machine gets while this process lives.

    It is below the range that connections take theirs from; the abstract socket is a lock that the kernel
    drops.
    """
    for port in random.SystemRandom().sample(range(20000, 32000), 200):
        claim = socket.socket(socket.AF_UNIX)
        try:
            if sys.platform == "linux":
                claim.bind(f"\0gearmang-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise RuntimeError("no free port from 20000 to 32000")


def find_gearmand() -> str:
    """The path of gearmand; a machine without it fails the test."""
    path = shutil.which("gearmand", path=os.environ.get("PATH", "") + ":" + SBIN)
    if not path:
        pytest.fail("gearmand is not installed (Debian: apt-get install gearman-job-server)", pytrace=False)
    return path


def unprivileged(*command) -> list[str]:
    """command as it runs for somebody who is not root: for root as nobody, who may still read and write all files.

    So it works also in a root's checkout and temporary folder.
    """
    if os.geteuid():
        return [str(word) for word in command]
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=+dac_override",
            "--ambient-caps=+dac_override", "--", *map(str, command)]


def environment(home: Path) -> dict[str, str]:
    """The environment of a tool: the checkout's bin first, then the python3 that runs these tests."""
    kept = {name: os.environ[name] for name in ("TMPDIR", "USER", "LOGNAME", "SUDO_USER") if name in os.environ}
    path = [str(ROOT / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "/usr/bin:/bin")]
    return {**kept, "PATH": ":".join(path), "HOME": str(home), "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1", "GM_SERVERS": NO_SERVER,
            "GM_QUARANTINE": str(home / "quarantine.db")}


def strays(home: Path) -> list[int]:
    """Living processes that a tool of this test left, known by the HOME that only they have."""
    mark = b"\0HOME=%b\0" % os.fsencode(home)
    found = []
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as environ:
                    if mark in b"\0" + environ.read() + b"\0":
                        found.append(int(entry))
            except OSError:
                pass
    return found


class Result:
    """How a tool ended: .status, .out and .err as bytes, .records from stdout."""

    def __init__(self, status: int, out: bytes, err: bytes):
        self.status, self.out, self.err = status, out, err

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]

    def __repr__(self) -> str:
        return f"<status {self.status}\nstdout: {self.out[-2000:]!r}\nstderr: {self.err[-2000:]!r}>"


class Tools:
    """gm("gm-submit", ...) runs a tool to its end, gm.start(...) in the background; .env is what they see."""

    def __init__(self, home: Path):
        self.home = home
        self.env = environment(home)
        self.started: list[subprocess.Popen] = []

    def popen(self, args, env=None, **options) -> subprocess.Popen:
        """Start args; in env a value of None removes the variable."""
        merged = {name: value for name, value in {**self.env, **(env or {})}.items() if value is not None}
        command = [os.fsdecode(arg) if isinstance(arg, bytes) else str(arg) for arg in args]
        command[0] = shutil.which(command[0], path=self.env["PATH"] + ":" + SBIN) or command[0]
        options.setdefault("cwd", self.home)
        process = subprocess.Popen(command, env=merged, **options)
        self.started.append(process)
        return process

    def __call__(self, *args, input=b"", env=None, status=0, timeout=60, cwd=None) -> Result:
        """Run a tool on input (bytes, or an open file) and check its exit status, unless status is None."""
        piped = isinstance(input, bytes)
        process = self.popen(args, env, cwd=cwd or self.home, stdin=subprocess.PIPE if piped else input,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(input if piped else None, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            self.kill_strays()
            pytest.fail(f"{args}: not done in {timeout} s: {Result(-1, *process.communicate())}")
        result = Result(process.returncode, out, err)
        assert status is None or result.status == status, f"{args}: {result}"
        return result

    def start(self, *args, env=None, **options) -> subprocess.Popen:
        """Start a tool; its stdout and stderr, unless given, go to the result's .out_path and .err_path; stdin may be a Path."""
        name = f"{Path(os.fsdecode(args[0])).name}.{len(self.started)}"
        paths = {"stdout": self.home / f"{name}.out", "stderr": self.home / f"{name}.err"}
        with contextlib.ExitStack() as files:
            ours = {stream: files.enter_context(open(path, "wb")) for stream, path in paths.items() if stream not in options}
            if isinstance(options.get("stdin"), Path):
                options["stdin"] = files.enter_context(open(options["stdin"], "rb"))
            process = self.popen(args, env, **{"stdin": subprocess.DEVNULL, **ours, **options})
        process.out_path, process.err_path = paths["stdout"], paths["stderr"]
        return process

    def kill_strays(self) -> None:
        for pid in strays(self.home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def database(self, path=None, **options):
        """The quarantine file, or another SQLite file that exists, for the test's own changes: committed and closed."""
        db = sqlite3.connect(f"{Path(path or self.env['GM_QUARANTINE']).absolute().as_uri()}?mode=rw", uri=True, **options)
        try:
            with db:
                yield db
        finally:
            db.close()

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
        self.kill_strays()
        for process in self.started:
            process.wait(10)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()


class Gearmand:
    """A real gearmand on 127.0.0.1:.port, by gm-server on .store, or in memory where store is None."""

    def __init__(self, gm: Tools, store: Path | None, *options: str):
        find_gearmand()
        self.gm, self.store, self.options = gm, store, options
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Gearmand:
        """Start it and wait until it answers."""
        if self.store is None:
            command = [find_gearmand(), "--listen=127.0.0.1", f"--port={self.port}", "--log-file=stderr"]
        else:
            command = ["gm-server", f"--store={self.store}", f"--port={self.port}", "--"]
        self.process = self.gm.start(*command, *self.options)
        until(self.answers, what="gearmand answers")
        return self

    def answers(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"gearmand ended, status {self.process.returncode}: "
                        + self.process.err_path.read_text("utf-8", "replace"))
        try:
            return self.admin(b"version\n", timeout=1).startswith(b"OK")
        except OSError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """Stop it in order; returns its exit status."""
        self.process.terminate()
        return self.process.wait(20)

    def admin(self, command: bytes, timeout: float = 10) -> bytes:
        """The whole answer to one line of the admin protocol. Raises OSError."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(command)
            answer = b""
            while not self.whole(answer):
                chunk = connection.recv(65536)
                if not chunk:
                    raise ConnectionError(f"admin {command!r}: closed after {answer!r}")
                answer += chunk
            return answer

    @staticmethod
    def whole(answer: bytes) -> bool:
        if answer.startswith((b"OK", b"ERR")):
            return answer.endswith(b"\n")
        return (b"\n" + answer).endswith((b"\n.\n", b"\n.\r\n"))

    def status(self) -> dict[bytes, tuple[int, int, int]]:
        """function -> (total, running, workers)"""
        lines = (line.rsplit(b"\t", 3) for line in self.admin(b"status\n").split(b"\n") if b"\t" in line)
        return {name: (int(total), int(running), int(workers)) for name, total, running, workers in lines}

    def waiting(self, function: bytes) -> int:
        """Jobs of function that no worker has begun."""
        total, running, _ = self.status().get(function, (0, 0, 0))
        return total - running


@pytest.fixture
def gm(tmp_path):
    """The tools, in their own environment with HOME=tmp_path; no server until `gearmand` is asked for."""
    tools = Tools(tmp_path)
    yield tools
    tools.end()


@pytest.fixture
def new_gearmand(gm, tmp_path):
    """new_gearmand("b.db", *options) starts one more gearmand on that store; None for the name: in memory."""
    return lambda name, *options: Gearmand(gm, name and tmp_path / name, *options).start()


@pytest.fixture
def gearmand(gm, new_gearmand):
    """A gearmand with a store; gm's tools are pointed at it."""
    server = new_gearmand("gearmand.db")
    gm.env["GM_SERVERS"] = server.server
    return server


@pytest.fixture
def memory_gearmand(gm, new_gearmand):
    """A gearmand without a store; gm's tools are pointed at it."""
    server = new_gearmand(None)
    gm.env["GM_SERVERS"] = server.server
    return server


@pytest.fixture
def die(gm, request):
    """die("function", b"lines", "sh script") puts jobs into quarantine by letting gm-work fail them."""
    request.getfixturevalue("gearmand" if "gearmand" in request.fixturenames else "memory_gearmand")

    def kill(function, lines, script="echo why >&2; exit 3", *options):
        gm("gm-submit", "-q", function, input=lines)
        gm("gm-work", "-q", "--until-empty", "--tries=1", "--brake=0", *options, function, "--", "sh", "-c", script)
    return kill


@pytest.fixture
def fake():
    """fake(serve) is a server that does to each connection what serve(socket) says."""
    from helpers import Fake
    with contextlib.ExitStack() as made:
        yield lambda serve: made.enter_context(contextlib.closing(Fake(serve)))
