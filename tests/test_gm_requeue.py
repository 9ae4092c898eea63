"""gm-requeue: back to the queue, and nothing lost on the way."""

from __future__ import annotations

import json
import signal
import sqlite3

import pytest
from conftest import until
from test_gm_dead import die  # noqa: F401  a fixture

EMPTY = ("gm-work", "--until-empty", "--tries=1", "--brake=0")


def idents(gm, *options):
    return [record["id"] for record in gm("gm-dead", *options).records]


def test_a_job_comes_back_with_its_payload_and_its_history(gm, die, tmp_path):  # noqa: F811
    die("f", b"payload\n")
    first = gm("gm-dead").records[0]
    record, = gm("gm-requeue", "1").records
    assert record["id"] == 1 and record["function"] == "f" and record["handle"].startswith("H:")
    assert idents(gm) == []
    gm(*EMPTY, "-q", "f", "--", "sh", "-c", f"cat > {tmp_path}/got; echo $GM_ATTEMPT $GM_UNIQUE > {tmp_path}/seen; exit 1")
    again, = gm("gm-dead").records
    assert (tmp_path / "got").read_bytes() == b"payload"
    assert (tmp_path / "seen").read_text() == f"1 {first['unique']}\n"
    assert again["requeues"] == 1 and again["first_failed"] == first["first_failed"] and again["attempts"] == 1
    assert again["unique"] == first["unique"]


def test_ids_and_records_from_standard_input(gm, die):  # noqa: F811
    die("f", b"1\n2\n3\n4\n")
    gm("gm-requeue", input=b"2\n\n" + json.dumps({"id": 3, "other": 1}).encode() + b"\n")
    assert idents(gm) == [1, 4]


def test_bad_lines_are_reported_and_the_rest_is_done(gm, die):  # noqa: F811
    die("f", b"1\n2\n")
    result = gm("gm-requeue", input=b'nonsense\n{"function":"f","data":"x"}\n99\n1\n', status=1)
    assert b"stdin:1: " in result.err and b"stdin:2: no id" in result.err and b"stdin:3: 99: no such job" in result.err
    assert result.err.count(b"\n") == 3 and idents(gm) == [2]
    gm("gm-requeue", "--strict", input=b"nonsense\n2\n", status=1)
    assert idents(gm) == [2]


def test_an_id_already_gone_is_passed_over(gm, die):  # noqa: F811
    die("f", b"1\n2\n")
    gm("gm-requeue", "1")
    result = gm("gm-requeue", "1", "2")
    assert [record["id"] for record in result.records] == [2] and result.err == b""


def test_a_changed_record_is_refused_without_edit(gm, gearmand, die, tmp_path):  # noqa: F811
    die("f", b"/old/x\n")
    record = gm("gm-dead").records[0]
    record["data"] = "/new/x"
    line = json.dumps(record).encode() + b"\n"
    assert b"--edit" in gm("gm-requeue", input=line, status=1).err and idents(gm) == [1]
    record.update(function="g")
    gm("gm-requeue", "--edit", input=json.dumps(record).encode())
    gm(*EMPTY, "-q", "g", "--", "sh", "-c", f"cat > {tmp_path}/got")
    assert (tmp_path / "got").read_bytes() == b"/new/x" and gearmand.waiting(b"f") == 0


def test_a_newer_death_is_never_removed_with_the_old_one(gm, die):  # noqa: F811
    die("f", b"1\n")
    old = gm("gm-dead").out
    gm("gm-requeue", input=old)
    gm(*EMPTY, "-q", "f", "--", "false")
    assert len(idents(gm)) == 1   # died again: another row, the first having left
    again = gm("gm-dead").out
    with sqlite3.connect(gm.env["GM_QUARANTINE"]) as db:   # as a death between the look and the requeue does
        db.execute("UPDATE job SET revision = revision + 1")
    db.close()
    result = gm("gm-requeue", input=again, status=1)
    assert b"failed again" in result.err and len(idents(gm)) == 1
    assert gm("gm-drop", input=again, status=1).out == b"" and len(idents(gm)) == 1


def test_plain_sends_no_envelope(gm, gearmand, die):  # noqa: F811
    die("f", b"payload\n")
    gm("gm-requeue", "--plain", "1")
    result = gm("gearman", "-h", "127.0.0.1", "-p", gearmand.port, "-w", "-c", "1", "-f", "f", "--", "tee",
                gm.home / "got")
    assert (gm.home / "got").read_bytes() == b"payload", result


def test_no_server_leaves_everything_where_it_is(gm, gearmand, die):  # noqa: F811
    die("f", b"1\n2\n")
    result = gm("gm-requeue", "1", env={"GM_SERVERS": "127.0.0.1:1"}, status=111)
    assert b"127.0.0.1:1" in result.err and idents(gm) == [1, 2]
    gm("gm-requeue", "1", "2")
    assert gearmand.waiting(b"f") == 2


def test_empty_input_changes_nothing(gm):
    assert gm("gm-requeue", input=b"").err == b""


def test_killed_at_any_point_it_loses_nothing(gm, gearmand, die):  # noqa: F811
    die("f", b"".join(b"%d\n" % n for n in range(400)))
    listing = gm("gm-dead").out
    for delay in range(6):
        process = gm.start("gm-requeue", "-q", stdin=open(_file(gm, listing), "rb"))
        until(lambda: process.poll() is not None or gearmand.waiting(b"f") > delay * 60)
        process.send_signal(signal.SIGKILL)
        process.wait()
    gm("gm-requeue", "-q", input=listing)
    assert idents(gm) == []
    seen = [json.loads(line) for line in gm("gm-work", "--until-empty", "f", "--", "cat").out.splitlines()]
    assert len({event["unique"] for event in seen}) == 400
    with sqlite3.connect(gm.env["GM_QUARANTINE"]) as db:
        assert db.execute("SELECT count(*) FROM audit WHERE action = 'requeue'").fetchone() == (400,)


def _file(gm, data):
    path = gm.home / "listing"
    path.write_bytes(data)
    return path


def test_two_at_once_share_the_work(gm, gearmand, die):  # noqa: F811
    die("f", b"".join(b"%d\n" % n for n in range(500)))
    listing = _file(gm, gm("gm-dead").out)
    both = [gm.start("gm-requeue", stdin=open(listing, "rb")) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert idents(gm) == [] and gearmand.waiting(b"f") == 500


@pytest.mark.parametrize("name", ["gm-requeue", "gm-drop"])
def test_no_silent_wait_on_a_terminal(gm, name):
    import os
    import pty
    master, slave = pty.openpty()
    try:
        assert b"standard input" in gm(name, input=os.fdopen(os.dup(slave), "rb"), status=2).err
    finally:
        os.close(master)
        os.close(slave)
