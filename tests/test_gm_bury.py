"""gm-bury: exports come back, byte for byte, each job once."""

from __future__ import annotations

import json

import pytest

HERE = ("id", "revision")   # what a file gives by itself


def without(record):
    return {name: value for name, value in record.items() if name not in HERE}


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


@pytest.mark.parametrize("payload_file", ["/etc/passwd", "/dev/zero", "secret", "quarantine.db", "quarantine.db-payload-1.1"])
def test_a_record_cannot_name_any_file_to_be_read(gm, payload_file, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "quarantine.db-payload-1.1").symlink_to("secret")
    gm("gm-bury", input=json.dumps({"function": "f", "data": "", "payload_file": payload_file}).encode(), status=None)
    result = gm("gm-dead", "--data", "1", status=None)
    assert result.out == b"" and result.status in (1, 111)
