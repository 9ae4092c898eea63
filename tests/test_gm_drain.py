"""gm-drain: the jobs that wait in a queue become dead jobs that can be looked at, edited, dropped and put back."""

from __future__ import annotations

import random
import re
import signal
import socket
import struct
import subprocess

import pytest
from conftest import NO_SERVER, until


def submit(gm, count, *options, function="f"):
    gm("gm-submit", "-q", *options, function, input=b"".join(b"%d\n" % number for number in range(count)))


def accounted(gm, function="f"):
    """The payloads of the dead jobs, and of those that are then worked off, sorted."""
    dead = [int(record["data"]) for record in gm("gm-dead", "-f", function).records]
    gm("sh", "-c", f"gm-work -q --until-empty {function} -- sh -c 'cat >>{gm.home}/done; echo >>{gm.home}/done'")
    path = gm.home / "done"
    return sorted(dead), sorted(int(line) for line in path.read_text().split()) if path.exists() else []


def test_waiting_jobs_become_dead_ones(gm, gearmand):
    gm("gm-submit", "-q", input=b'{"function":"f","unique":"mine","data":"\\u00e9"}\n'
       b'{"function":"f","data_b64":"AP8=","priority":"high"}\n')
    high, mine = gm("gm-drain", "f").records
    assert (mine["unique"], mine["data"], mine["reason"], mine["state"], mine["attempts"]) == ("mine", "é", "drained", "dead", 0)
    assert (high["data_b64"], high["priority"]) == ("AP8=", "high")   # a unique that was made up carries the priority
    assert mine["first_failed"] is None and mine["server"] == gearmand.server
    assert gm("gm-dead").records == [high, mine]
    assert gearmand.waiting(b"f") == 0
    assert [(entry["action"], entry["job"]) for entry in gm("gm-history").records] == [("drain", 1), ("drain", 2)]


@pytest.mark.slow
def test_no_more_than_asked_for(gm, gearmand):
    submit(gm, 1200)
    assert [record["data"] for record in gm("gm-drain", "f", "2").records] == ["0", "1"]
    assert gearmand.waiting(b"f") == 1198
    assert len(gm("gm-drain", "f", "700").records) == 700
    assert gearmand.waiting(b"f") == 498
    assert len(gm("gm-drain", "f").records) == 498 and gearmand.waiting(b"f") == 0


def test_an_empty_queue_and_an_unknown_function(gm, gearmand):
    for _ in range(2):
        assert gm("gm-drain", "nobody").out == b""


@pytest.mark.slow
def test_what_was_drained_is_put_back_as_it_was(gm, gearmand):
    submit(gm, 3)
    once = gm.home / "once"
    worker = gm.start("gm-work", "--delay=0", "--grace=0", "f", "--", "sh", "-c",
                      f"if [ -e {once} ]; then sleep 99; fi; >{once}; exit 1")
    until(lambda: worker.out_path.read_bytes())   # one has failed once, and another one is running
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    tried = {record["data"]: record["attempts"] for record in gm("gm-drain", "f").records}
    assert sorted(tried.values()) == [0, 0, 1]
    gm("gm-requeue", "-q", "1", "2", "3")
    events = gm("gm-work", "--until-empty", "--delay=0", "--brake=0", "f", "--", "false").records
    attempts = [event["attempts"] for event in events if event["event"] == "dead"]
    assert attempts == [3, 3, 3] and len(events) == 8   # 2 more of the one, 3 of the others


@pytest.mark.slow
def test_edited_and_moved_to_another_function_and_cancelled(gm, gearmand):
    submit(gm, 10)
    gm("gm-drain", "-q", "f")
    gm("sh", "-c", "gm-dead | jq -c 'select(.data == \"3\")' | gm-drop -q")
    gm("sh", "-c", "gm-dead -n 4 | jq -c '.function = \"g\"' | gm-requeue -q --edit")
    gm("sh", "-c", "gm-dead | gm-requeue -q")
    assert gearmand.waiting(b"g") == 4 and gearmand.waiting(b"f") == 5
    assert gm("gm-dead").records == []


def client(port, function, unique, data, kind=7):
    """A foreground submission (SUBMIT_JOB) of a client that knows nothing of gearmang."""
    connection = socket.create_connection(("127.0.0.1", port), 20)
    body = b"\0".join((function, unique, data))
    connection.sendall(b"\0REQ" + struct.pack(">II", kind, len(body)) + body)
    return connection


def packets(connection):
    """(type, body) of what a server sends."""
    data = b""
    while True:
        while len(data) < 12 or len(data) < 12 + struct.unpack(">I", data[8:12])[0]:
            chunk = connection.recv(65536)
            assert chunk, "the server is gone"
            data += chunk
        kind, length = struct.unpack(">II", data[4:12])
        yield kind, data[12:12 + length]
        data = data[12 + length:]


def test_a_client_that_waits_is_told_that_its_job_failed(gm, gearmand):
    with client(gearmand.port, b"f", b"u", b"payload") as connection:
        seen = packets(connection)
        assert next(seen)[0] == 8   # JOB_CREATED
        assert gm("gm-drain", "f").records[0]["data"] == "payload"
        warning, failed = next(seen), next(seen)
        assert warning[0] == 29 and b"gm-drain" in warning[1] and failed[0] == 14   # WORK_WARNING, WORK_FAIL


def test_a_job_whose_client_says_that_it_waits_is_not_kept(gm, gearmand):
    waiting = gm.start("gm-submit", "--wait", "f", stdin=subprocess.PIPE)
    waiting.stdin.write(b"x\n")
    waiting.stdin.close()
    until(lambda: gearmand.waiting(b"f") == 1)
    assert gm("gm-drain", "f").records == []
    assert waiting.wait(20) == 1 and b"gm-drain" in waiting.out_path.read_bytes()
    assert gm("gm-dead").records == []


def test_any_function_name_that_a_server_holds(gm, gearmand):
    for name in (b"new\nline", b"tab\there", b"\xff\xfe"):
        with client(gearmand.port, name, b"u", b"x", kind=18) as connection:   # SUBMIT_JOB_BG
            assert next(packets(connection))[0] == 8
        assert gm("gm-drain", "--", name).records[0]["data"] == "x"


@pytest.mark.slow
def test_beside_a_gm_work_it_ends_and_no_job_is_seen_twice(gm, gearmand):
    submit(gm, 1000)
    worker = gm.start("gm-work", "-q", "-j2", "f", "--", "sh", "-c", f'x=$(cat); echo "$x" >>{gm.home}/done')
    until(lambda: (gm.home / "done").exists())
    drained = gm("gm-drain", "-q", "f")
    assert drained.status == 0
    until(lambda: gearmand.status()[b"f"][0] == 0)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    dead = [int(record["data"]) for record in gm("gm-dead").records]
    done = [int(line) for line in (gm.home / "done").read_text().split()]
    assert sorted(dead + done) == list(range(1000))


@pytest.mark.slow(10)
def test_killed_at_twenty_points_it_loses_no_job(gm, gearmand):
    submit(gm, 1000)
    dice, kills = random.Random(7), 0
    for _ in range(20):
        drain = gm.start("gm-drain", "-q", "f", "90")
        left = gearmand.waiting(b"f") - dice.randrange(60)
        until(lambda: drain.poll() is not None or gearmand.waiting(b"f") <= left, longest=0.005)
        kills += drain.poll() is None
        drain.kill()
        drain.wait(20)
    assert kills > 10
    dead, done = accounted(gm)
    assert set(dead) | set(done) == set(range(1000))


@pytest.mark.slow
def test_a_reader_that_goes_away(gm, gearmand):
    submit(gm, 3000)
    result = gm("bash", "-c", "set -o pipefail; gm-drain f | head -n 1 >first", status=1)
    assert re.search(rb"gm-drain: standard output: its reader has gone: stopped after \d+ jobs", result.err)
    assert len(gm("gm-dead").records) + gearmand.waiting(b"f") == 3000


def test_errors(gm, gearmand):
    assert b"N: not a number" in gm("gm-drain", "f", "x", status=2).err
    assert gm("gm-drain", "-s", NO_SERVER, "f", status=111).err.startswith(b"gm-drain: 127.0.0.1:1: cannot connect")
