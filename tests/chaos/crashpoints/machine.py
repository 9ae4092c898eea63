"""The machine that a crash point breaks: its files, gearmand and the tools, all under preload.c."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))
from conftest import SBIN, environment, strays  # noqa: E402
from disk import Disk  # noqa: E402
from gearmand import Queue  # noqa: E402

NUMBER = re.compile(rb'(?:^|\n|"data":")(\d+) [a-z]+')
STATUSES = (0, 1, 111, -9)   # of a tool that is broken on purpose


class Process:
    """A tool: a service is started again whenever it ends; a step until it exits 0, or just once."""

    def __init__(self, name: str, argv: list[str], service: bool = True, once: bool = False, stdin: str = "", **env: str):
        self.name, self.argv, self.service, self.once, self.stdin, self.env = name, argv, service, once, stdin, env
        self.popen: subprocess.Popen | None = None
        self.runs, self.next, self.over = 0, 0.0, False


class Machine:
    """home: an empty folder; port: of gearmand; targets: the tools whose calls count, in one string."""

    def __init__(self, home: Path, library: Path, port: int, targets: str):
        self.home, self.queue = home, Queue(port)
        self.state, self.shadow, self.out, self.log = home / "state", home / "shadow", home / "out", home / "log"
        self.disk = Disk(self.state, home, library)
        self.out.mkdir()
        self.log.touch()
        self.quarantine, self.store = self.state / "quarantine.db", self.state / "gearmand.db"
        self.control = self.disk.control
        self.env = {**environment(home), **self.disk.env, "GM_SERVERS": f"127.0.0.1:{port}",
                    "GM_QUARANTINE": str(self.quarantine), "GM_TIMEOUT": "2", "CRASH_TARGETS": targets,
                    "CRASH_PLUG": str(home / "plug"), "CRASH_LOG": str(self.log)}
        self.server = Process("gm-server", ["gm-server", f"--store={self.store}", f"--port={port}", "--", "--threads=1"])
        self.processes: list[Process] = []
        self.boots, self.cut_at = 1, ""
        self.wrong: list[str] = []

    def restore(self) -> None:
        """After a power cut: end what is left of the processes, and bring the files back as they were last synced."""
        self.kill_all()
        strike = self.control.strike
        chance = random.Random(strike.at)
        self.cut_at = self.control.where or "the plug"
        self.disk.restore(lambda: strike.part and chance.random() < 0.5)
        (self.home / "plug").unlink(missing_ok=True)
        self.boots += 1

    def sync(self, path: Path) -> None:
        self.disk.sync(path)

    # ---- processes

    def start(self, process: Process) -> None:
        argv = process.argv
        command = shutil.which(argv[0], path=f"{self.env['PATH']}:{SBIN}") or argv[0]
        process.runs += 1
        source = self.home / "stdin"
        source.write_text(process.stdin, encoding="utf-8")
        with open(self.out / f"{process.name}.out", "ab") as out, open(self.out / f"{process.name}.err", "ab") as err, \
                open(source, "rb") as stdin:
            process.popen = subprocess.Popen([command, *argv[1:]], env={**self.env, **process.env}, stdin=stdin, stdout=out,
                                             stderr=err, cwd=self.home, start_new_session=True)

    def boot(self) -> None:
        """Start gearmand, and wait until it answers."""
        self.start(self.server)
        until = time.monotonic() + 30
        while not self.queue.answers():
            if self.server.popen.poll() is not None:
                if self.control.off:
                    return
                self.start(self.server)
            if time.monotonic() > until:
                self.wrong.append("gearmand does not answer in 30 s")
                return
            time.sleep(0.005)

    def run(self, *argv: str, stdin: str = "") -> None:
        """Run a tool to its end; it must exit 0."""
        process = Process(argv[0] + ".prepare", list(argv), service=False, stdin=stdin)
        self.start(process)
        if process.popen.wait(60):
            raise RuntimeError(f"{argv}: status {process.popen.returncode}: {(self.out / f'{process.name}.err').read_text()}")

    def look(self) -> list[Process]:
        """Start what has to be started; the steps that have ended since."""
        if self.control.off:
            self.restore()
            ended = [step for step in self.processes if not step.service and step.popen and not step.over]
            for process in self.processes:
                process.popen = None
                process.over = process.over or (process.once and process in ended)
            self.boot()
            return ended
        if self.server.popen is not None and self.server.popen.poll() is not None:
            self.boot()
        ended = []
        for process in self.processes:
            if process.popen is not None and process.popen.poll() is not None and not process.over:
                self.ended(process)
                if not process.service:
                    ended.append(process)
            if process.popen is None and not process.over and time.monotonic() >= process.next:
                self.start(process)
        return ended

    def ended(self, process: Process) -> None:
        status, process.popen = process.popen.returncode, None
        if status not in STATUSES:
            self.wrong.append(f"{process.name}: exit status {status}")
        process.next = time.monotonic() + (0.05 if process.runs < 3 else 0.5)
        if not process.service:
            process.over = process.once or not status
            if not process.over and process.runs >= 12:
                self.wrong.append(f"{process.name}: still exits {status} after {process.runs} runs")
                process.over = True

    def stop(self) -> None:
        """Stop the services in order."""
        alive = [process for process in self.processes if process.popen and process.popen.poll() is None]
        for process in alive:
            process.popen.terminate()
        for process in alive:
            try:
                # 1: its output had failed; -15: it was starting; 111: and the file was struck
                if process.popen.wait(20) not in (0, 1, -15, 111):
                    self.wrong.append(f"{process.name}: status {process.popen.returncode} after SIGTERM")
            except subprocess.TimeoutExpired:
                self.wrong.append(f"{process.name}: does not end after SIGTERM")

    def kill_all(self) -> None:
        popens = [process.popen for process in (self.server, *self.processes) if process.popen]
        for popen in popens:
            popen.kill()
        while left := strays(self.home):
            for pid in left:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
            for popen in popens:
                popen.poll()
            time.sleep(0.002)
        for popen in popens:
            popen.wait(10)

    # ---- jobs

    def rows(self, path: Path, sql: str) -> list | None:
        """What a file has; None where it does not tell now. The connection never writes: a checkpoint would be a sync
        that no shadow knows."""
        if not path.exists():
            return []
        try:
            database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.2)
            try:
                return database.execute(sql).fetchall()
            finally:
                database.close()
        except sqlite3.Error as error:
            return [] if "no such table" in str(error) else None

    def look_up(self, path: Path, sql: str) -> list:
        """rows(), tried until they are there; where a cut has left a hot journal, gm-dead has SQLite roll it back."""
        until = time.monotonic() + 10
        while (found := self.rows(path, sql)) is None:
            if time.monotonic() > until:
                self.wrong.append(f"{path.name}: cannot be read")
                return []
            if path.with_name(path.name + "-journal").exists():
                looking = Process("gm-dead", ["gm-dead", "--json"], GM_QUARANTINE=str(path))
                self.start(looking)
                looking.popen.wait(60)
            time.sleep(0.01)
        return found

    def logged(self) -> list[list[str]]:
        """(begun | done | dropped, number) of the jobs' log."""
        return [line.split() for line in self.log.read_text(encoding="ascii").splitlines()]

    def printed(self, process: Process) -> list[int]:
        """The jobs of the records that a tool has printed whole, one for each record."""
        found = []
        out = self.out / f"{process.name}.out"
        for line in out.read_bytes().splitlines() if out.exists() else ():
            try:
                found.append(int(json.loads(line)["unique"].partition("-")[2]))
            except (ValueError, KeyError, TypeError):
                pass   # cut off
        return found


def numbers(payloads) -> set[int]:
    """The jobs of payloads, each of which may have an envelope, or be in the record for a gm-collect."""
    found = set()
    for payload in payloads:
        match = NUMBER.search(payload.encode() if isinstance(payload, str) else bytes(payload or b""))
        if match:
            found.add(int(match[1]))
    return found
