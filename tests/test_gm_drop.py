"""gm-drop: jobs leave the quarantine for good, with a line in the audit trail."""

from __future__ import annotations

import signal
import subprocess

import pytest
from conftest import until
from helpers import terminal


def test_drop_prints_what_it_removed_and_writes_it_down(gm, die):
    die("f", b"1\n2\n3\n")
    record = gm("gm-dead", "2").records[0]
    assert gm("gm-drop", "2").records == [record]
    assert [found["id"] for found in gm("gm-dead").records] == [1, 3]
    with gm.database() as db:
        assert db.execute("SELECT action, job, function FROM audit").fetchall() == [("drop", 2, "f")]


def test_a_selection_that_matches_nothing_drops_nothing(gm, die):
    die("f", b"1\n2\n")
    gm("bash", "-c", "gm-dead -m typo | gm-drop")
    assert len(gm("gm-dead").records) == 2


def test_archive_then_remove(gm, die):
    die("f", b"1\n2\n")
    gm("bash", "-c", "gm-dead --json > f && gm-drop -q < f")
    assert gm("gm-dead").records == [] and (gm.home / "f").read_bytes().count(b"\n") == 2


def test_ids_are_never_reused(gm, die):
    die("f", b"1\n2\n")
    gm("gm-drop", "1", "2")
    die("f", b"3\n")
    assert [found["id"] for found in gm("gm-dead").records] == [3]


def test_an_id_that_never_was(gm, die):
    die("f", b"1\n")
    assert b"7: no such job" in gm("gm-drop", "7", "1", status=1).err
    assert b"1: dropped " in gm("gm-drop", "1").err   # who typed it is told
    assert gm("gm-drop", "--ids", input=b"1\n").err == b""


@pytest.mark.slow
@pytest.mark.parametrize("input", [b"[\n  1,\n  2\n]\n", b"{\n  \"id\": 1\n}\n"])
def test_numbers_of_json_over_several_lines_are_no_ids(gm, die, input):
    die("f", b"1\n2\n")
    assert gm("gm-drop", input=input, status=1).err.count(b"jq -c") == 1
    assert len(gm("gm-dead").records) == 2


def test_records_come_out_one_deed_at_a_time(gm, die):
    """Also into a file, and while input is still to come."""
    die("f", b"1\n2\n")
    drop = gm.start("gm-drop", "--ids", stdin=subprocess.PIPE)
    drop.stdin.write(b"1\n")
    drop.stdin.flush()
    until(lambda: drop.out_path.read_bytes().count(b"\n") == 1)
    drop.send_signal(signal.SIGTERM)
    assert drop.wait(20) == 130 and b"interrupted: 1 job removed before that" in drop.err_path.read_bytes()
    drop.stdin.close()


@pytest.mark.slow
def test_why_is_in_the_history(gm, die):
    die("f", b"1\n2\n")
    gm("gm-drop", "-q", "--why=a test: é", "1")
    gm("gm-requeue", "-q", "--why", "mended", "2")
    assert [(entry["action"], entry["why"]) for entry in gm("gm-history").records] == \
        [("drop", "a test: é"), ("requeue", "mended")]
    shown = terminal(gm, "gm-history")
    assert "a test: é" in shown and "mended" in shown
    gm("gm-work", "-q", "--until-empty", "--tries=1", "f", "--", "false")
    assert "(mended)" in terminal(gm, "gm-dead", "3")


@pytest.mark.slow
@pytest.mark.parametrize("line, why", [
    (b'{"id":null}', b"id is not"), (b'{"id":"1"}', b"id is not"), (b'{"id":1.0}', b"id is not"), (b'{"id":true}', b"id is not"),
    (b'{"id":1,"revision":null}', b"revision is not"), (b'{"id":1,"revision":"1"}', b"revision is not"), (b"1", b"--ids"),
    (b'{"data":"1"}', b"no id in the record")])
def test_what_is_no_record_of_a_job_drops_nothing(gm, die, line, why):
    die("f", b"1\n")
    result = gm("gm-drop", input=line, status=1)
    assert b"gm-drop: stdin:1: " in result.err and why in result.err and result.err.count(b"\n") == 1
    assert len(gm("gm-dead").records) == 1
