"""A short crash-point sweep (tests/chaos/crashpoints/run): wherever a call breaks, no accepted job is lost."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT, SBIN, find_gearmand, free_port

sys.path.append(str(ROOT / "tests/chaos/crashpoints"))
from machine import Machine, Process
from strikes import compile_library

SWEPT = ["command", "command, delayed", "pipe", "pipe, delayed", "via", "requeue", "requeue, wait", "bury", "drop", "submit",
         "server", "twins", "twins, requeued", "drain", "drain, work", "put back", "at", "pause", "pause, pipe", "reap",
         "reap, release"]

WRITER = """
import os, sqlite3
os.chdir(os.environ["CRASH_HOME"])
for name in ("kept", "gone", "back"):
    with open(name, "w") as file:
        file.write("synced" * (name != "gone"))
        file.flush()
        if name != "gone":
            os.fsync(file.fileno())
            file.write(" and more")
os.unlink("back")
os.mkdir("db")   # SQLite syncs its directory
for synchronous in ("FULL", "OFF"):
    database = sqlite3.connect("db/" + synchronous + ".db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE t (a)")
    database.execute("PRAGMA synchronous=" + synchronous)
    database.execute("INSERT INTO t VALUES (1)")
    globals()[synchronous] = database
open(os.environ["CRASH_PLUG"], "w")
"""


def sweep(*words: str) -> str:
    """What a run prints; it fails the test where the run does."""
    find_gearmand()
    command = [sys.executable, ROOT / "tests/chaos/crashpoints/run", *words]
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:{SBIN}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow(40)
@pytest.mark.timeout(420)
def test_no_accepted_job_is_lost_wherever_a_call_breaks():
    assert "lost 0, wrong 0" in sweep("--points=24", "--seed=5", *SWEPT)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", ["killer", "killer, pipe"])
def test_a_job_that_takes_the_machine_down_is_set_aside_after_its_tries(scenario):
    assert "lost 0, wrong 0" in sweep("--points=0", scenario)


def test_a_power_cut_takes_what_was_not_synced_and_nothing_else(tmp_path):
    """What the sweep's machine does to files, seen by plain files and by SQLite with and without its syncs."""
    machine = Machine(tmp_path / "home", compile_library(tmp_path), free_port(), "")
    writer = Process("writer", [sys.executable, "-c", WRITER], service=False)
    machine.start(writer)
    assert writer.popen.wait(60) == -9
    assert machine.control.off
    machine.restore()
    there = {path.name: path.read_text() for path in machine.state.iterdir() if path.is_file()}
    assert there == {"kept": "synced", "back": "synced"}
    assert machine.rows(machine.state / "db/FULL.db", "SELECT a FROM t") == [(1,)]
    assert machine.rows(machine.state / "db/OFF.db", "SELECT a FROM t") == []
