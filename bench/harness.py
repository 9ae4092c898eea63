"""What the benchmarks stand on: servers of their own, timed programs, interleaved rounds, a table."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = [sys.executable, str(ROOT / "bench/peers.py")]
BEFORE = os.getloadavg()[0]   # what it begins is not others' load


class Bench:
    """A directory and servers for one run; everything that was started ends with it."""

    def __init__(self):
        self.home = Path(tempfile.mkdtemp(prefix="gearmang-bench-"))
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("GM_")}
        self.env.update(PATH=f"{ROOT / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/local/sbin:/usr/sbin",
                        PYTHONPATH=f"{ROOT}:{ROOT / 'bench'}",
                        HOME=str(self.home), GM_QUARANTINE=str(self.home / "quarantine.db"))
        self.started: list[subprocess.Popen] = []
        self.ports: dict[int, subprocess.Popen] = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.started:
            process.terminate()
        for process in self.started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self, *command: object) -> int:
        """Start a server on a free port, whose number takes the place of PORT; the port, once it answers."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with open(self.home / "servers.log", "ab") as log:
            self.started.append(subprocess.Popen([str(word).replace("PORT", str(port)) for word in command], env=self.env,
                                                 stdout=log, stderr=log, cwd=self.home))
        self.ports[port] = self.started[-1]
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return port
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"bench: {command[0]}: does not answer: " + (self.home / "servers.log").read_text()[-500:])

    def end(self, port: int) -> None:
        """End the server on a port."""
        process = self.ports.pop(port)
        process.kill()
        process.wait()

    def run(self, *command: object, env=(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) -> float:
        """Seconds that a program takes from its start to its end."""
        began = time.perf_counter()
        done = subprocess.run([str(word) for word in command], env={**self.env, **dict(env)}, stdin=stdin, stdout=stdout,
                              stderr=subprocess.PIPE, cwd=self.home)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise Failed(f"{' '.join(map(str, command))[:200]}: status {done.returncode}: "
                         f"{done.stderr[-300:].decode('utf-8', 'replace').strip()}")
        return seconds

    def memory(self, *command: object, env=(), stdin=subprocess.DEVNULL) -> float:
        """MiB of resident memory that a program has at most; started by a small one, whose own it inherits in that count."""
        done = subprocess.run([*PEERS, "memory", *map(str, command)], env={**self.env, **dict(env)}, stdin=stdin,
                              capture_output=True, text=True, cwd=self.home)
        if done.returncode:
            raise Failed(f"{command[0]}: {done.stderr[-300:].strip()}")
        return float(done.stdout)


class Failed(Exception):
    """A measurement that could not be made: its row says so, the others go on."""


class Row:
    """A line of the table: programs side by side, the first is ours.

    contenders: {name: function that returns the figure of one round}; unit: "/s" (more is better), "ms" or "MiB".
    bars: {name of another contender, or "" for our figure itself: bound}, of ours divided by the other's; a bound is at
    least where more is better, else at most.
    """

    def __init__(self, title: str, unit: str, contenders: dict, bars: dict, rounds: int = 5):
        self.title, self.unit, self.contenders, self.bars, self.rounds = title, unit, contenders, bars, rounds
        self.figures: dict[str, list[float]] = {name: [] for name in contenders}
        self.trouble: dict[str, str] = {}

    def measure(self, most: int) -> None:
        """All contenders in turn, round after round, the order reversed every other time."""
        for number in range(min(self.rounds, most)):
            names = list(self.contenders)
            for name in names[::-1] if number % 2 else names:
                if name in self.trouble:
                    continue
                try:
                    self.figures[name].append(self.contenders[name]())
                except (Failed, OSError) as error:
                    self.trouble[name] = str(error)
            print(".", end="", file=sys.stderr, flush=True)

    def ours(self) -> str:
        return next(iter(self.contenders))

    def ratios(self, name: str) -> list[float]:
        """Ours by the other's, of each round."""
        return [a / b for a, b in zip(self.figures[self.ours()], self.figures[name])]

    def lines(self) -> list[str]:
        shown = []
        more = self.unit == "/s"
        for name, figures in self.figures.items():
            first = name == self.ours()
            line = [f"{self.title} " if first else "", name]
            if not figures:
                line += [self.trouble.get(name, "not measured"), "", "", ""]
            else:
                line += [f"{number(statistics.median(figures))} {self.unit}",
                         f"{number(min(figures))} – {number(max(figures))}"]
                values = figures if first else self.ratios(name)
                bar = self.bars.get("" if first else name)
                line.append("" if first or not values else f"{statistics.median(values):.2f}")
                if bar is None or not values:
                    line.append("")
                else:
                    middle = statistics.median(values)
                    met = middle >= bar if more else middle <= bar
                    line.append(f"{'≥' if more else '≤'} {number(bar)}{'' if first is False else ' ' + self.unit}: "
                                f"{'met' if met else 'MISSED'}")
            shown.append("| " + " | ".join(line) + " |")
        return shown


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


HEAD = ["| work | program | median | spread | ours ÷ its | bar |", "|---|---|---|---|---|---|"]


def machine() -> list[str]:
    """What it ran on, and the versions of what was measured."""
    def said(*command: str) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True,
                                  env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin"})
            return (done.stdout + done.stderr).strip().split("\n")[0]
        except OSError:
            return "not there"
    import sqlite3
    from importlib.metadata import PackageNotFoundError, version

    def package(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} not there"
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in cpus if line.startswith("model name")), platform.machine())
    busy = os.cpu_count() < BEFORE
    return [*(["**The machine was busy with other things**: rates are low, and so are ratios of what needs more than one "
               "processor. Run it again on a quiet one.\n"] if busy else []),
            f"{os.cpu_count()} x {model}, Linux {platform.release()}; load {BEFORE:.1f} when it began",
            f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; {said('gearmand', '--version')}; "
            f"{package('python3-gearman')}; {package('huey')}; {package('rq')}; "
            f"{said('redis-server', '--version')}; {said('parallel', '--version')}"]


def interrupted(*_):
    raise SystemExit(130)


signal.signal(signal.SIGTERM, interrupted)
