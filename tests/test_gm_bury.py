"""gm-bury: exports come back, byte for byte, each job once."""

from __future__ import annotations

import base64
import json

import pytest
from helpers import terminal

HERE = ("id", "revision")   # what a file gives by itself


def without(record):
    return {name: value for name, value in record.items() if name not in HERE}


@pytest.mark.slow
def test_an_export_is_the_same_on_another_machine(gm, die, tmp_path):
    gm("gm-submit", "-u", "own", "f", "-", input=bytes(range(256)))
    gm("gm-submit", b"b\xff", input="ä\u2028\n".encode())
    die("f", b"text\n", r"printf 'two\nlines \377' >&2; kill -9 $$")
    die(b"b\xff", b"")
    export = gm("gm-dead", "--json")
    other = {"GM_QUARANTINE": str(tmp_path / "other.db")}
    buried = gm("gm-bury", input=export.out, env=other)
    assert [record["id"] for record in buried.records] == [1, 2, 3]
    there = gm("gm-dead", env=other)
    assert [without(record) for record in there.records] == [without(record) for record in export.records]
    assert gm("gm-dead", "--data", "1", env=other).out == bytes(range(256))
    again = gm("gm-bury", input=export.out, env=other)
    assert again.out == b"" and again.err == b"" and gm("gm-dead", env=other).out == there.out


def test_what_was_dropped_comes_back(gm, die):
    die("f", b"1\n2\n")
    before = gm("gm-dead").records
    dropped = gm("gm-drop", "1", "2").out
    record = gm("gm-bury", input=dropped).records[0]
    assert record == {"id": 3, "revision": 1, "function": "f", "unique": before[0]["unique"]}
    assert [without(record) for record in gm("gm-dead").records] == [without(record) for record in before]
    assert [entry["action"] for entry in gm("gm-history").records] == ["drop", "drop", "bury", "bury"]


def test_a_newer_death_wins_and_an_older_changes_nothing(gm, die):
    die("f", b"1\n")
    old = gm("gm-dead").records[0]
    new = {**old, "sends": old["sends"] + 1, "error": "newer"}
    assert gm("gm-bury", input=json.dumps(new).encode()).records[0]["revision"] == 2
    assert gm("gm-bury", input=json.dumps(old).encode()).records == []
    assert gm("gm-dead").records[0]["error"] == "newer"


def test_a_record_of_somebody_elses_is_buried_once(gm):
    line = b'{"function":"f","data":"x"}\n'
    assert len(gm("gm-bury", input=line + line).records) == 1
    gm("gm-bury", input=line)
    record, = gm("gm-dead").records
    assert record["reason"] == "collected" and record["revision"] == 1 and record["unique"] == ""


def test_bad_lines_are_reported_and_the_rest_is_buried(gm):
    lines = (b'nonsense\n{"function":"f"}\n{"count":3,"function":"f","sample":1}\n{"function":"f","data":"1","key":"x"}\n'
             b'{"function":"f","data":"1","fingerprint":"x"}\n{"function":"f","data":"1","last_failed":"then"}\n'
             b'{"function":"f","data":"1","payload_file":"/nowhere/at/all"}\n{"function":"f","data":"1"}\n')
    result = gm("gm-bury", input=lines, status=1)
    assert len(result.records) == 1
    assert [line.split(b": ")[1] for line in result.err.splitlines()] == [b"stdin:%d" % n for n in range(1, 8)]
    assert gm("gm-bury", "--strict", input=b'nonsense\n{"function":"f","data":"2"}\n', status=1).out == b""
    assert len(gm("gm-dead").records) == 1


def test_empty_input_makes_no_file(gm):
    gm("gm-bury", input=b"")
    gm("gm-dead", status=111)


@pytest.mark.slow
def test_delayed_retries_are_buried_as_dead(gm, gearmand, tmp_path):
    gm("gm-submit", "-q", "f", input=b"1\n")
    gm("gm-work", "-q", "--until-empty", "--delay=1h", "f", "--", "false")
    delayed = gm("gm-dead", "--delayed").out
    gm("gm-bury", input=delayed)   # is there already
    assert gm("gm-dead").records == [] and gm("gm-dead", "--delayed").out == delayed
    other = {"GM_QUARANTINE": str(tmp_path / "other.db")}
    gm("gm-bury", input=delayed, env=other)
    record, = gm("gm-dead", env=other).records
    assert record["state"] == "dead" and record["due"] is None


@pytest.mark.slow
@pytest.mark.parametrize("payload_file", ["/etc/passwd", "/dev/zero", "secret", "quarantine.db", "quarantine.db-payload-1.1"])
def test_a_record_cannot_name_any_file_to_be_read(gm, payload_file, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "quarantine.db-payload-1.1").symlink_to("secret")
    gm("gm-bury", input=json.dumps({"function": "f", "data": "", "payload_file": payload_file}).encode(), status=None)
    result = gm("gm-dead", "--data", "1", status=None)
    assert result.out == b"" and result.status in (1, 111)


# ---- what is taken is carried, or refused at the door


@pytest.mark.slow
@pytest.mark.parametrize("field, value", [
    ("unique", "u" * 64), ("unique", "a\0b"), ("unique", None), ("unique", 5), ("function", None), ("function", ""),
    ("data", None), ("data", 5), ("data", {"a": 1}),
    ("data_b64", None), ("requeues", 1_000_001), ("requeues", None), ("requeues", -1),
    ("attempts", True), ("attempts", 1.5), ("attempts", "3"), ("sends", 4096), ("sends", None), ("key", None), ("key", "0123"),
    ("key", "0" * 12 + "\n"), ("priority", None), ("priority", "urgent"), ("reason", "a\x1b[31m"), ("reason", ""), ("reason", 5),
    ("error", ["x"]), ("stderr", 5), ("last_failed", 5), ("fingerprint", "xyz"), ("payload_file", 5)])
def test_a_field_that_is_there_is_meant(gm, field, value):
    record = {"function": "f", "unique": "u", "data": "x", field: value}
    if field == "data_b64":
        del record["data"]
    result = gm("gm-bury", input=json.dumps(record).encode(), status=1)
    assert result.out == b"" and result.err.startswith(b"gm-bury: stdin:1: ") and result.err.count(b"\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("extreme", [
    {"unique": "x" * 63}, {"unique": "0123456789abcdef" * 3 + "0" * 15}, {"unique": ""}, {"requeues": 1_000_000},
    {"attempts": 1_000_000, "requeues": 600}, {"sends": 4095}, {"first_failed": "9999-12-31T23:59:59Z"}, {"function": "g" * 512},
    {"unique": "~" * 40}, {"unique": "é" * 31}], ids=str)
def test_whatever_is_taken_is_carried(gm, gearmand, extreme):
    """Through gm-bury, gm-requeue, a worker and its next death, byte for byte."""
    data = base64.b64encode(b"\0%gm1 {}\n\xff").decode()
    record = {"function": "f", "unique": "u", "data_b64": data, "requeues": 2, **extreme}
    gm("gm-bury", "-q", input=json.dumps(record).encode())
    listed = gm("gm-dead").out
    gm("gm-requeue", "-q", input=listed)
    gm("gm-work", "-q", "--until-empty", "--tries=1", record["function"], "--", "sh", "-c", "cat > got; exit 65")
    assert (gm.home / "got").read_bytes() == b"\0%gm1 {}\n\xff"
    again, = gm("gm-dead").records
    before = json.loads(listed)
    assert (again["unique"], again["first_failed"], again["key"]) == (record["unique"], before["first_failed"], before["key"])
    assert again["requeues"] == min(record["requeues"] + 1, 1_000_000) and again["sends"] == (before["sends"] + 1) % 4096
    other = {"GM_QUARANTINE": str(gm.home / "other.db")}
    gm("gm-bury", "-q", input=json.dumps(again).encode(), env=other)
    assert without(gm("gm-dead", env=other).records[0]) == without(again)


# ---- identity


def test_records_without_a_key_that_differ_in_anything_are_two(gm):
    record = {"function": "f", "unique": "u", "data": "x", "error": "row 1", "last_failed": "2026-01-01T00:00:00Z"}
    changes = ({}, {"error": "row 2"}, {"stderr": "more"}, {"attempts": 2}, {"last_failed": "2026-01-02T00:00:00Z"},
               {"unique": "v"}, {"reason": "crash"}, {"data": "y"}, {"exit": 1})
    lines = "".join(json.dumps({**record, **change}) + "\n" for change in changes).encode()
    assert len(gm("gm-bury", input=lines).records) == len(changes)
    assert gm("gm-bury", input=lines).records == [] and len(gm("gm-dead").records) == len(changes)


def test_another_job_under_the_same_key_is_another_job_and_comes_in_once(gm):
    gm("gm-bury", "-q", input=b'{"function":"f","data":"mine","key":"0123456789ab","sends":3}\n')
    forged = b'{"function":"f","data":"forged","key":"0123456789ab","sends":9,"last_failed":"2026-01-01T00:00:00Z"}\n'
    assert len(gm("gm-bury", input=forged + forged).records) == 1 and gm("gm-bury", input=forged).out == b""
    mine, other = gm("gm-dead").records
    assert (mine["data"], mine["key"], mine["revision"], mine["sends"]) == ("mine", "0123456789ab", 1, 3)
    assert other["data"] == "forged" and other["key"] != mine["key"]


def test_an_id_that_a_copy_did_not_use_never_was(gm):
    line = b'{"function":"f","data":"x"}\n'
    gm("gm-bury", "-q", input=line * 3)
    assert b"2: no such job" in gm("gm-dead", "2", status=1).err


def test_payloads_in_files_count_by_their_content(gm, tmp_path):
    for number, content in ((1, b"one"), (2, b"two"), (3, b"one")):
        (tmp_path / f"quarantine.db-payload-99.{number}").write_bytes(content)
    lines = "".join(json.dumps({"function": "f", "data": "", "reason": "rejected", "last_failed": "2026-01-01T00:00:00Z",
                                "payload_file": f"quarantine.db-payload-99.{number}"}) + "\n" for number in (1, 2)).encode()
    assert len(gm("gm-bury", input=lines).records) == 2 and gm("gm-bury", input=lines).records == []
    assert [gm("gm-dead", "--data", ident).out for ident in (1, 2)] == [b"one", b"two"]
    gm("gm-drop", "-q", "1")
    assert not (tmp_path / "quarantine.db-payload-99.1").exists() and (tmp_path / "quarantine.db-payload-99.2").exists()


# ---- long texts


@pytest.mark.slow
@pytest.mark.parametrize("run", ["a", "\"", "a@", "«", "-a"])
def test_an_error_of_any_length_is_cut_and_taken(gm, run):
    text = run * 200_000
    gm("gm-bury", "-q", input=json.dumps({"function": "f", "data": "x", "error": text, "stderr": text}).encode(), timeout=20)
    record, = gm("gm-dead").records
    assert record["error"] == text[:1000] and record["stderr"] == text[-10_000:]


# ---- a person at a terminal


def test_on_a_terminal_one_line_says_what_was_done(gm):
    lines = gm.home / "lines"
    lines.write_bytes(b'{"function":"f","data":"x"}\n{"function":"f","data":"y"}\n')
    shown = terminal(gm, "sh", "-c", "gm-bury < lines")
    assert shown == "gm-bury: 2 jobs buried; 2 dead jobs in quarantine\n"
    assert terminal(gm, "gm-requeue", "-s", "127.0.0.1:1", "1", status=111).startswith("gm-requeue: 127.0.0.1:1: cannot connect")
    assert terminal(gm, "gm-drop", "1") == "gm-drop: 1 job removed; 1 dead job left\n"
    shown = terminal(gm, "gm-drop", "--json", "2")
    assert json.loads(shown.splitlines()[0])["id"] == 2 and shown.endswith("gm-drop: 1 job removed; 0 dead jobs left\n")
