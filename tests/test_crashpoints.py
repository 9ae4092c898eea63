"""A short crash-point sweep (tests/chaos/crashpoints/run): wherever a call breaks, no accepted job is lost."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT, SBIN, find_gearmand

SWEPT = ["command", "command, delayed", "pipe", "pipe, delayed", "via", "requeue", "requeue, wait", "bury", "drop", "submit",
         "server"]


def sweep(*words: str) -> str:
    """What a run prints; it fails the test where the run does."""
    find_gearmand()
    done = subprocess.run([sys.executable, ROOT / "tests/chaos/crashpoints/run", *words], capture_output=True, text=True, check=False,
                          timeout=280, env={**os.environ, "PATH": f"{os.environ['PATH']}:{SBIN}"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_accepted_job_is_lost_wherever_a_call_breaks():
    assert "lost 0, wrong 0" in sweep("--points=18", "--seed=5", *SWEPT)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", ["killer", "killer, pipe"])
def test_a_job_that_takes_the_machine_down_is_set_aside_after_its_tries(scenario):
    assert "lost 0, wrong 0" in sweep("--points=0", scenario)
