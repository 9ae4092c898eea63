"""gm-drop: jobs leave the quarantine for good, with a line in the audit trail."""

from __future__ import annotations

import pytest


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


@pytest.mark.parametrize("input", [b"[\n  1,\n  2\n]\n", b"{\n  \"id\": 1\n}\n"])
def test_numbers_of_json_over_several_lines_are_no_ids(gm, die, input):
    die("f", b"1\n2\n")
    assert gm("gm-drop", input=input, status=1).err.count(b"jq -c") == 1
    assert len(gm("gm-dead").records) == 2
