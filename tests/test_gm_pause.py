"""gm-pause: every gm-work on the file stops working a function, finishes what it has begun, and goes on when told to."""

from __future__ import annotations

import json
import os
import random
import re
import signal

import pytest
from conftest import until

pytestmark = pytest.mark.slow


def records(process):
    return [json.loads(line) for line in process.out_path.read_bytes().splitlines()]


def test_workers_stop_and_go_on(gm, gearmand):
    worker = gm.start("gm-work", "-j2", "f", "--", "cat")
    gm("gm-submit", "-q", "f", input=b"1\n")
    until(lambda: len(records(worker)) == 1)
    record, = gm("gm-pause", "--why=new disk", "f").records
    assert record == {"function": "f", "until": None, "why": "new disk", "reached": 2, "others": 0}
    until(lambda: b"gm-work: f: paused" in worker.err_path.read_bytes())
    gm("gm-submit", "-q", "f", input=b"2\n")
    until(lambda: gearmand.waiting(b"f") == 1)
    assert len(records(worker)) == 1
    assert gm("gm-resume", "f").records == [{"function": "f", "ended": "pause"}]
    until(lambda: len(records(worker)) == 2)
    assert [(entry["action"], entry["function"], entry["why"]) for entry in gm("gm-history").records] == \
        [("pause", "f", "new disk"), ("resume", "f", None)]


def test_what_is_begun_is_finished_and_what_is_in_hand_goes_back(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"".join(b"%d\n" % number for number in range(50)))
    go, begun = gm.home / "go", gm.home / "begun"
    worker = gm.start("gm-work", "--pipe", "f", "--", "sh", "-c", f"""
        while read -r line; do
            : >{begun}
            while ! [ -e {go} ]; do sleep 0.05; done
            echo '{{"ok":true}}'
        done""")
    until(begun.exists)
    gm("gm-pause", "-q", "f")
    until(lambda: b"paused" in worker.err_path.read_bytes())
    go.touch()
    until(lambda: gearmand.status()[b"f"][1] == 0)
    done = len(records(worker))
    assert done >= 1 and gearmand.waiting(b"f") == 50 - done
    gm("gm-resume", "-q", "f")
    until(lambda: len(records(worker)) == 50)
    assert {record["event"] for record in records(worker)} <= {"done", "release"}


def test_delayed_retries_wait_too(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"x\n")
    gm("gm-work", "-q", "--until-empty", "--delay=1", "f", "--", "false")
    gm("gm-pause", "-q", "f")
    gm("gm-at", "-q", "2", "later", input=b"y\n")
    gm.start("gm-work", "another", "--", "cat")
    until(lambda: gearmand.waiting(b"later") == 1, what="what is due later is released")
    assert gearmand.waiting(b"f") == 0 and len(gm("gm-dead", "--delayed").records) == 1
    gm("gm-resume", "-q", "f")
    until(lambda: gearmand.waiting(b"f") == 1)


def test_until_a_time_and_for_globs(gm, gearmand):
    gm("gm-pause", "-q", "--until=6", "im*")
    worker = gm.start("gm-work", "img", "--", "cat")
    gm("gm-submit", "-q", "img", input=b"x\n")
    until(lambda: b"paused" in worker.err_path.read_bytes())
    until(lambda: records(worker))
    assert b"neither paused nor held" in gm("gm-resume", "img", status=1).err


def test_workers_of_others_are_counted(gm, gearmand):
    foreign = gm.start("gearman", "-h", "127.0.0.1", "-p", str(gearmand.port), "-w", "-f", "f")
    until(lambda: gearmand.status().get(b"f", (0, 0, 0))[2] == 1)
    record, = gm("gm-pause", "f", status=1).records
    assert (record["reached"], record["others"]) == (0, 1)
    foreign.send_signal(signal.SIGTERM)


def test_a_server_that_is_down_may_have_workers(gm):
    result = gm("gm-pause", "f", status=1)
    assert result.records[0]["others"] == 0 and b"cannot connect" in result.err


def test_gm_status_and_gm_check_say_it(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"x\n")
    assert gm("gm-check", "workers", status=2).out.startswith(b"GEARMANG WORKERS CRITICAL")
    gm("gm-pause", "-q", "--why=new disk", "--until=1h", "f")
    row, = gm("gm-status", "--json").records
    assert re.fullmatch(r"paused by \S+ \d+s ago, until \d{4}-\d\d-\d\dT[\d:]+Z: new disk", row["trouble"])
    checked = gm("gm-check", "workers", status=0)
    assert b"paused" in checked.out


def test_a_pause_is_kept_across_restarts(gm, gearmand):
    gm("gm-pause", "-q", "f")
    gm("gm-submit", "-q", "f", input=b"x\n")
    result = gm("gm-work", "--until-empty", "f", "--", "cat")
    assert result.records == [] and b"paused" in result.err
    assert gearmand.waiting(b"f") == 1
    assert os.path.exists(gm.env["GM_QUARANTINE"])


def test_killed_at_twenty_points_no_job_is_lost_or_run_twice(gm, gearmand):
    """gm-pause and gm-resume in turn, beside workers that fetch, give back and go on."""
    gm("gm-submit", "-q", "f", input=b"".join(b"%d\n" % number for number in range(200)))
    worker = gm.start("gm-work", "-j2", "f", "--", "sh", "-c", "read n; echo $n >>ran; sleep 0.02")
    dice, kills = random.Random(15), 0
    until(lambda: records(worker))
    for number in range(20):
        process, moments = gm.start("gm-resume" if number % 2 else "gm-pause", "f"), iter([False] * dice.randrange(40))
        until(lambda: process.poll() is not None or next(moments, True), longest=0.005)
        kills += process.poll() is None
        process.kill()
        process.wait(20)
    assert kills > 5
    gm("gm-resume", "f", status=None)
    until(lambda: sum(record["event"] == "done" for record in records(worker)) == 200, 60)
    assert sorted(map(int, (gm.home / "ran").read_text().split())) == list(range(200))
