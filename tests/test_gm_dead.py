"""gm-dead: what is in quarantine, selected and shown."""

from __future__ import annotations

import json
import os
import pty
import sqlite3

import pytest


@pytest.fixture
def die(gm, gearmand):
    """die("function", b"lines", "sh script") puts jobs into quarantine by letting gm-work fail them."""
    def kill(function, lines, script="echo why >&2; exit 3", *options):
        gm("gm-submit", "-q", function, input=lines)
        gm("gm-work", "-q", "--until-empty", "--tries=1", "--brake=0", *options, function, "--", "sh", "-c", script)
    return kill


def test_record_is_whole(gm, gearmand, die):
    gm("gm-submit", "-u", "photo-17", "resize", input=b"payload\n")
    die("resize", b"", "echo one >&2; echo two >&2; exit 3")
    record, = gm("gm-dead").records
    assert record["id"] == 1 and record["revision"] == 1 and record["state"] == "dead"
    assert record["function"] == "resize" and record["unique"] == "photo-17" and record["data"] == "payload"
    assert record["reason"] == "error" and record["error"] == "two" and record["stderr"] == "one\ntwo"
    assert record["exit"] == 3 and record["signal"] is None and record["attempts"] == 1 and record["requeues"] == 0
    assert record["first_failed"] == record["last_failed"] and record["last_failed"].endswith("Z")
    assert record["due"] is None and record["server"] == gearmand.server and record["handle"].startswith("H:")
    assert record["host"] == os.uname().nodename and len(record["fingerprint"]) == 12


def test_selectors(gm, die):
    die("resize", b"1\n2\n", "echo disk full >&2; exit 3")
    die("mail", b"3\n", "exit 65")
    die("resize2", b"4\n", "kill -9 $$")
    ids = lambda *options: [record["id"] for record in gm("gm-dead", *options).records]
    assert ids() == [1, 2, 3, 4]
    assert ids("-f", "resize") == [1, 2] and ids("-f", "resize*") == [1, 2, 4]
    assert ids("-r", "rejected") == [3] and ids("-r", "crash") == [4]
    assert ids("-m", "disk f.ll") == [1, 2] and ids("-m", "typo") == []
    assert ids("-n", "1") == [1] and ids("--after=2") == [3, 4] and ids("--after", "1", "-n2") == [2, 3]
    record = gm("gm-dead", "3").records[0]
    assert ids("-u", record["unique"]) == [3] and ids("--fingerprint", record["fingerprint"]) == [3]
    assert ids("--since", "1h") == [1, 2, 3, 4] and ids("--until", "1h") == []
    assert ids("--since", "2999-01-01T00:00:00Z") == []
    assert ids("-f", "mail", "-f", "resize") == [1, 2]   # the last wins


def test_bad_selectors_are_usage_errors(gm, die):
    die("f", b"1\n")
    for options in (["-r", "nonsense"], ["-m", "("], ["--since", "yesterdayish"], ["-n", "x"], ["seventeen"], ["--func=f"]):
        result = gm("gm-dead", *options, status=2)
        assert result.out == b"" and b"gm-dead: " in result.err


def test_data_is_byte_exact(gm, die):
    payload = bytes(range(256))
    gm("gm-submit", "f", "-", input=payload)
    die("f", b"")
    assert gm("gm-dead", "--data", "1").out == payload
    record, = gm("gm-dead").records
    assert "data" not in record and record["data_b64"]
    gm("gm-dead", "--data", status=2)
    gm("gm-dead", "--data", "99", status=1)


def test_an_id_that_is_not_there(gm, die):
    die("f", b"1\n2\n")
    gm("gm-drop", "1")
    result = gm("gm-dead", "1", "2", "3", status=1)
    assert [record["id"] for record in result.records] == [2]
    assert result.err.count(b"\n") == 2 and b"3: no such job" in result.err


def test_absent_file_is_an_error_that_names_it(gm, tmp_path):
    result = gm("gm-dead", status=111)
    assert str(tmp_path / "quarantine.db").encode() in result.err and result.err.count(b"\n") == 1


def test_reading_never_creates_or_changes(gm, die, tmp_path):
    die("f", b"1\n")
    with sqlite3.connect(gm.env["GM_QUARANTINE"]) as db:
        before = db.execute("SELECT * FROM job").fetchall()
    gm("gm-dead")
    with sqlite3.connect(gm.env["GM_QUARANTINE"]) as db:
        assert db.execute("SELECT * FROM job").fetchall() == before


def terminal(gm, *args):
    """What a tool prints on an 80 column terminal."""
    master, slave = pty.openpty()
    process = gm.popen(args, {"COLUMNS": "80"}, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    process.wait(10)
    return shown.replace(b"\r\n", b"\n").decode()


def test_table_fits_the_terminal_and_lets_nothing_act(gm, die):
    die("f", b"1\n", r"printf 'a\033[31m%s\n' " + "long" * 60 + " >&2; exit 1")
    shown = terminal(gm, "gm-dead")
    assert "\033" not in shown and "…" in shown and all(len(line) <= 80 for line in shown.splitlines())


def test_page_of_one_job(gm, die):
    gm("gm-submit", "f", input=b'{"photo":"a.jpg"}\n')
    die("f", b"", "echo first >&2; echo last >&2; exit 7")
    shown = terminal(gm, "gm-dead", "1")
    assert '"photo": "a.jpg"' in shown and "exit status 7" in shown and "  first\n  last" in shown


def test_empty_listing_on_a_terminal_says_where_it_looked(gm, die, tmp_path):
    die("f", b"1\n")
    gm("gm-drop", "1")
    assert "quarantine.db" in terminal(gm, "gm-dead").replace("\n", "")


def test_reader_that_goes_away_ends_it_silently(gm, die):
    die("f", b"x\n" * 3000)
    result = gm("bash", "-c", "set -o pipefail; gm-dead | head -1")
    assert result.err == b"" and json.loads(result.out)["id"] == 1


def test_full_output_device_is_an_error(gm, die):
    die("f", b"1\n")
    assert b"No space left" in gm("bash", "-c", "gm-dead > /dev/full", status=1).err
