"""gm-history: who did what, written in the same transaction that does it."""

from __future__ import annotations

import json
import os
import pwd
import re

import pytest
from helpers import terminal


def me():
    name = pwd.getpwuid(os.getuid()).pw_name
    behind = os.environ.get("SUDO_USER")
    return f"{behind}/{name}" if behind and behind != name else name


@pytest.mark.slow
def test_every_requeue_drop_and_burial_is_there(gm, die):
    die("f", b"1\n2\n3\n", "echo why >&2; exit 3")
    records = gm("gm-dead").records
    gm("gm-requeue", "1")
    gm("gm-requeue", "--edit", input=json.dumps({**records[1], "data": "new"}).encode())
    dropped = gm("gm-drop", "3").out
    gm("gm-bury", input=dropped)
    entries = gm("gm-history").records
    assert [(entry["entry"], entry["action"], entry["job"], entry["edited"]) for entry in entries] == [
        (1, "requeue", 1, False), (2, "requeue", 2, True), (3, "drop", 3, False), (4, "bury", 4, False)]
    for entry, record in zip(entries, [*records, records[2]]):
        assert entry["user"] == me() and entry["host"] == os.uname().nodename and entry["time"].endswith("Z")
        for name in ("revision", "key", "function", "unique", "reason", "error", "fingerprint"):
            assert entry[name] == record[name], name
    assert not any("id" in entry for entry in entries)   # no line of it is a job


@pytest.mark.slow
def test_selectors(gm, die):
    die("f", b"1\n2\n")
    die("g", b"3\n")
    unique = gm("gm-dead", "3").records[0]["unique"]
    gm("gm-requeue", "1")
    gm("gm-drop", "2", "3")

    def jobs(*options):
        return [entry["job"] for entry in gm("gm-history", *options).records]
    assert jobs() == [1, 2, 3] and jobs("3", "1") == [3, 1] and jobs("2", "--action=requeue") == []
    assert jobs("-f", "g") == [3] and jobs("-f", "[fg]") == [1, 2, 3] and jobs("-u", unique) == [3]
    assert jobs("--action", "drop") == [2, 3] and jobs("--user", me()) == [1, 2, 3] and jobs("--user", "nobody-else") == []
    assert jobs("--since", "1h") == [1, 2, 3] and jobs("--until", "1h") == [] and jobs("-n1") == [1]
    assert jobs("--after", "1", "-n", "1") == [2]
    for options in (["--action=lie"], ["x"], ["--since=nonsense"]):
        assert gm("gm-history", *options, status=2).out == b""


def test_a_job_that_failed_again_while_it_was_sent_back_was_sent_back_all_the_same(gm, die):
    """It dies before gm-requeue can take it out: the newer death stays, and the requeue is in the history."""
    die("f", b"1\n")
    with gm.database() as db:   # as its next death does, between the sending and the removal
        db.execute("CREATE TRIGGER again AFTER UPDATE OF claim ON job WHEN NEW.claim IS NOT NULL BEGIN "
                   "UPDATE job SET revision = revision + 1, claim = NULL, nonce = NULL WHERE id = NEW.id; END")
    result = gm("gm-requeue", "1", status=1)
    assert b"failed again meanwhile" in result.err
    assert gm("gm-dead").records[0]["revision"] == 2
    assert [(entry["action"], entry["revision"]) for entry in gm("gm-history").records] == [("requeue", 1)]


def test_what_is_no_longer_there_is_told(gm, die):
    die("f", b"1\n2\n")
    gm("gm-drop", "1")
    assert re.search(rb"1: dropped \d+s ago by ", gm("gm-dead", "1", status=1).err)
    assert b"7: no such job" in gm("gm-dead", "7", status=1).err


def test_a_page_shows_what_was_done_with_the_job(gm, die):
    die("f", b"1\n")
    gm("gm-requeue", "1")
    die("f", b"")
    shown = terminal(gm, "gm-dead", "2")
    assert f"requeued by {me()}@" in shown and "job 1: why" in shown and "requeues      1" in shown


def test_a_table_on_a_terminal(gm, die):
    die("f", b"1\n")
    gm("gm-drop", "1")
    shown = terminal(gm, "gm-history")
    assert "drop" in shown and "time" in shown.splitlines()[0]
    assert "no entries that match in" in terminal(gm, "gm-history", "-f", "other").replace("\n", " ")


def test_newest_first(gm, die):
    die("f", b"1\n2\n3\n")
    gm("gm-drop", "-q", "1", "2", "3")

    def jobs(*options):
        return [entry["job"] for entry in gm("gm-history", *options).records]
    assert jobs("--newest") == [3, 2, 1] and jobs("--newest", "-n", "2") == [3, 2] and jobs("--newest", "--after=2") == [3]
    assert jobs("--newest", "1", "2") == [1, 2]


@pytest.mark.slow
def test_the_history_of_a_job_goes_back_to_before_its_key_was_short(gm, die):
    die("f", b"1\n")
    gm("gm-requeue", "-q", "1")
    with gm.database() as db:   # as the version before wrote it
        db.execute("UPDATE audit SET key = key || 'abcdefabcdefabcdefab'")
    die("f", b"")
    assert f"requeued by {me()}@" in terminal(gm, "gm-dead", "2")
    assert [len(entry["key"]) for entry in gm("gm-history").records] == [12]
