"""gm-at: jobs are kept in the quarantine file until their time, and any gm-work with the same servers submits them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time

import pytest
from conftest import until


def test_a_job_is_kept_listed_and_released_on_time(gm, gearmand):
    began = time.time()
    record, = gm("gm-at", "--priority=high", "1", "f", input=b"payload\n").records
    assert (record["id"], record["function"], record["line"]) == (1, "f", 1)
    listed, = gm("gm-dead", "--delayed").records
    assert (listed["state"], listed["data"], listed["priority"]) == ("delayed", "payload", "high")
    assert (listed["reason"], listed["attempts"], listed["first_failed"]) == (None, 0, None)
    assert listed["due"] == record["due"] and listed["unique"] == record["unique"]
    worker = gm.start("gm-work", "f", "--", "cat")
    until(lambda: worker.out_path.read_bytes())
    assert time.time() - began >= 1
    event = json.loads(worker.out_path.read_bytes())
    assert (event["event"], event["attempts"], event["unique"]) == ("done", 1, record["unique"])
    assert gm("gm-dead", "--delayed").records == []


def test_any_gm_work_of_the_same_servers_releases(gm, gearmand):
    gm("gm-at", "-q", "0", "f", input=b"x\n")
    worker = gm.start("gm-work", "another", "--", "cat")
    until(lambda: gearmand.waiting(b"f") == 1)
    worker.terminate()
    assert worker.wait(20) == 0


def test_it_says_when_nobody_releases(gm, gearmand):
    said = b"gm-at: no gm-work runs with this file and " + gearmand.server.encode()
    assert gm("gm-at", "-q", "1h", "f", input=b"x\n").err.startswith(said)
    gm.start("gm-work", "another", "--", "cat")
    until(lambda: gm("gm-at", "-q", "1h", "f", input=b"x\n").err == b"")
    assert gm("gm-at", "-q", "-s", "127.0.0.1:1", "1h", "f", input=b"x\n").err.startswith(b"gm-at: no gm-work runs")


def test_records_with_times_of_their_own(gm, gearmand):
    lines = [{"function": "f", "data": "late"}, {"function": "f", "data": "early", "due": "2020-01-01T00:00:00Z", "unique": "u"},
             {"function": "f", "data": "x", "due": "some day"}]
    result = gm("gm-at", "365d", input=b"".join(json.dumps(line).encode() + b"\n" for line in lines), status=1)
    assert b"gm-at: stdin:3: due is not an ISO 8601 time" in result.err
    assert [record["due"] for record in result.records][1] == "2020-01-01T00:00:00Z"
    events = gm("gm-work", "--until-empty", "f", "--", "cat").records
    assert [(event["event"], event["unique"]) for event in events] == [("done", "u")]
    assert [record["data"] for record in gm("gm-dead", "--delayed").records] == ["late"]


def test_gm_drop_is_its_atrm(gm, gearmand):
    gm("gm-at", "-q", "1h", "f", input=b"a\nb\n")
    gm("gm-drop", "-q", "1")
    assert [record["data"] for record in gm("gm-dead", "--delayed").records] == ["b"]
    assert [(entry["action"], entry["job"]) for entry in gm("gm-history").records] == [("at", 1), ("at", 2), ("drop", 1)]


def test_a_released_job_that_fails_is_counted_from_one(gm, gearmand):
    gm("gm-at", "-q", "0", "f", input=b"x\n")
    events = gm("gm-work", "--until-empty", "--delay=0", "--brake=0", "f", "--", "false").records
    assert [(event["event"], event["attempts"]) for event in events] == [("retry", 1), ("retry", 2), ("dead", 3)]
    dead, = gm("gm-dead").records
    assert dead["first_failed"] and dead["unique"] == events[0]["unique"]


def test_a_clock_that_was_stepped(gm, gearmand):
    """A retry that is further off than --max-delay is due; gm-at's jobs wait for their time only."""
    gm("gm-at", "-q", "30d", "f", input=b"x\n")
    assert gm("gm-work", "--until-empty", "--max-delay=1s", "f", "--", "cat").records == []
    with gm.database() as db:   # the clock jumped forward by a month
        db.execute("UPDATE job SET due = due - 30 * 86400 - 1")
    assert len(gm("gm-work", "--until-empty", "f", "--", "cat").records) == 1


def test_durable_before_it_is_printed_and_refused_when_it_cannot_be(gm, gearmand):
    assert gm("gm-at", "1h", "f", input=b"\nx\n", status=1).err.startswith(b"gm-at: stdin:1: empty payload")
    assert b"WHEN: neither a duration" in gm("gm-at", "tomorrow", "f", input=b"x\n", status=2).err
    assert b"WHEN is missing" in gm("gm-at", status=2).err
    gm("gm-at", "--quarantine=/nowhere/q.db", "1h", "f", input=b"x\n", status=111)


@pytest.mark.slow
def test_killed_at_twenty_points_it_keeps_what_it_printed_and_no_job_twice(gm, gearmand):
    dice, printed = random.Random(15), set()
    for run in range(20):
        process = gm.start("gm-at", "--unique-data", "1h", "f", stdin=subprocess.PIPE)
        kept = dice.randrange(9)
        for number in range(10):
            process.stdin.write(b"%d.%d\n" % (run, number))
            process.stdin.flush()
            if number < kept:   # each a transaction of its own
                until(lambda: process.out_path.read_bytes().count(b"\n") > number)
                wal = os.stat(gm.env["GM_QUARANTINE"] + "-wal").st_mtime_ns
        if kept and dice.randrange(2):   # in the midst of the last one
            until(lambda: os.stat(gm.env["GM_QUARANTINE"] + "-wal").st_mtime_ns != wal, longest=0.001)
        process.kill()
        process.wait(20)
        printed |= {json.loads(line)["unique"] for line in process.out_path.read_bytes().splitlines()}
    delayed = [record["unique"] for record in gm("gm-dead", "--delayed").records]
    assert printed <= set(delayed) and len(delayed) == len(set(delayed)) >= 20 and len(printed) < 200
    with gm.database() as db:
        db.execute("UPDATE job SET due = 1")
    until(lambda: gm("gm-work", "-q", "--until-empty", "another", "--", "true") and not gm("gm-dead", "--delayed").records)
    assert sorted(event["unique"] for event in gm("gm-work", "--until-empty", "f", "--", "true").records) == sorted(delayed)


def test_equal_jobs_are_two_jobs(gm, gearmand):
    for _ in range(2):
        gm("gm-at", "-q", "--unique=same", "0", "f", input=b"x\n")
    assert len(gm("gm-dead", "--delayed").records) == 2
    assert len(gm("gm-work", "--until-empty", "f", "--", "cat").records) == 2


@pytest.mark.slow(10)
def test_many_that_are_due_at_once(gm, gearmand):
    gm("gm-at", "-q", "0", "f", input=b"".join(b"%d\n" % number for number in range(5000)))
    worker = gm.start("gm-work", "another", "--", "cat")
    until(lambda: gearmand.waiting(b"f") == 5000, timeout=60)
    worker.terminate()
    assert worker.wait(20) == 0
    assert gm("gm-dead", "--delayed").records == []
