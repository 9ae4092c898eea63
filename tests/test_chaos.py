"""Short chaos runs (tests/chaos/run): nothing is lost, and where nothing is broken nothing is done twice."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT, SBIN, find_gearmand


def chaos(*options: str, **env: str) -> str:
    """What a run prints; it fails the test where the run does."""
    find_gearmand()
    done = subprocess.run([sys.executable, ROOT / "tests/chaos/run", *options], capture_output=True, text=True, timeout=380,
                          env={**os.environ, "PATH": f"{os.environ['PATH']}:{SBIN}", **env})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow(40)
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mounts", [True, False], ids=["full disks", "file size limits"])
def test_nothing_is_lost_whatever_breaks(mounts):
    said = chaos("--seconds=8" if mounts else "--seconds=4", "--seed=11", "--jobs=300", **{} if mounts else {"CHAOS_MOUNTS": "0"})
    assert "lost 0, wrong 0" in said


@pytest.mark.slow(20)
def test_where_nothing_breaks_nothing_is_done_twice():
    assert "done more than once: 0\n" in chaos("--seconds=4", "--seed=7", "--faults=0", "--jobs=200")


def test_every_mutant_still_finds_its_text():
    """A rule that moved in the source must be followed by the script that breaks it (tests/chaos/mutants)."""
    script = str(ROOT / "tests/chaos/mutants")
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") >= 12, done.stderr
