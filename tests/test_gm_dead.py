"""gm-dead: what is in quarantine, selected and shown."""

from __future__ import annotations

import json
import os
import signal

import pytest
from conftest import until
from helpers import bury, cpu_seconds, idents, terminal


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


@pytest.mark.slow
def test_selectors(gm, die):
    die("resize", b"1\n2\n", "echo disk full >&2; exit 3")
    die("mail", b"3\n", "exit 65")
    die("resize2", b"4\n", "kill -9 $$")

    def ids(*options):
        return idents(gm, *options)
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
    with gm.database() as db:
        before = db.execute("SELECT * FROM job").fetchall()
    gm("gm-dead")
    with gm.database() as db:
        assert db.execute("SELECT * FROM job").fetchall() == before


def test_table_fits_the_terminal_and_lets_nothing_act(gm, die):
    die("f", b"1\n", r"printf 'a\033[31m%s\n' " + "long" * 60 + " >&2; exit 1")
    shown = terminal(gm, "gm-dead")
    assert "\033" not in shown and "…" in shown and all(len(line) <= 80 for line in shown.splitlines())


def test_page_of_one_job(gm, die):
    gm("gm-submit", "f", input=b'{"photo":"a.jpg"}\n')
    die("f", b"", "echo first >&2; echo last >&2; exit 7")
    shown = terminal(gm, "gm-dead", "1")
    assert '"photo": "a.jpg"' in shown and "exit status 7" in shown and "  first\n  last" in shown


def test_page_of_a_job_that_took_its_worker_says_where_to_look(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"x\n")
    gm("gm-work", "--until-empty", "--tries=1", "f", "--", "sh", "-c", "kill -9 $PPID")
    shown = terminal(gm, "gm-dead", "1")
    assert "its worker died with it" in shown and "journalctl -k" in shown


def test_empty_listing_on_a_terminal_says_where_it_looked(gm, die, tmp_path):
    die("f", b"1\n")
    gm("gm-drop", "1")
    assert "quarantine.db" in terminal(gm, "gm-dead").replace("\n", "")


@pytest.mark.slow
def test_reader_that_goes_away_ends_it_silently(gm):
    bury(gm, [b"x"] * 3000)
    result = gm("bash", "-c", "set -o pipefail; gm-dead | head -1")
    assert result.err == b"" and json.loads(result.out)["id"] == 1


def test_full_output_device_is_an_error(gm, die):
    die("f", b"1\n")
    assert b"no space left" in gm("bash", "-c", "gm-dead > /dev/full", status=1).err


@pytest.mark.slow
def test_group_is_by_cause_whatever_numbers_and_names_are_in_it(gm, die):
    die("f", b"/a/1.jpg 17\n/b/2.jpg 18\n/c/3.jpg 19\n", 'read p n; echo "$p: no such file, try $n" >&2; exit 65')
    die("f", b"x\n", "echo bad colour >&2; exit 65")
    die("g", b"x\ny\n", "echo bad colour >&2; exit 65")
    groups = gm("gm-dead", "--group").records
    assert [(group["count"], group["function"], group["sample"]) for group in groups] == [(3, "f", 3), (2, "g", 6), (1, "f", 4)]
    assert groups[0]["error"] == "/c/3.jpg: no such file, try 19" and groups[0]["reason"] == "rejected"
    assert groups[0]["first_failed"] <= groups[0]["last_failed"] and not any("id" in group for group in groups)

    def alike(*options):
        return [(group["count"], group["sample"]) for group in gm("gm-dead", "--group", *options).records]
    assert alike("-f", "f") == [(3, 3), (1, 4)] and alike("-m", "colour") == [(2, 6), (1, 4)] and alike("-n", "1") == [(3, 3)]
    assert alike("-f", "[fg]", "-m", "file") == [(3, 3)] and alike("--after", "2") == [(2, 6), (1, 4), (1, 3)]
    assert alike("--fingerprint", groups[1]["fingerprint"]) == [(2, 6)] and alike("--until", "1h") == []
    ids = [record["id"] for record in gm("gm-dead", "--fingerprint", groups[0]["fingerprint"]).records]
    assert ids == [1, 2, 3]
    assert "sample" in terminal(gm, "gm-dead", "--group")


@pytest.mark.slow
def test_delayed_retries_are_listed_apart(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"1\n2\n")
    gm("gm-work", "-q", "--until-empty", "--delay=1h", "f", "--", "sh", "-c", "echo why >&2; exit 1")
    assert gm("gm-dead").records == [] and gm("gm-dead", "--group").records == []
    records = gm("gm-dead", "--delayed").records
    assert [record["state"] for record in records] == ["delayed"] * 2 and all(record["due"].endswith("Z") for record in records)
    assert [group["count"] for group in gm("gm-dead", "--delayed", "--group").records] == [2]
    assert "due in" in terminal(gm, "gm-dead", "--delayed")


@pytest.mark.slow
def test_functions_that_are_not_utf8_are_selected_and_shown(gm, die):
    die(b"r\xff", b"1\n")
    die("rs", b"2\n")

    def ids(*options):
        return idents(gm, *options)
    assert ids("-f", b"r\xff") == [1] and ids("-f", b"r[\xff]") == [1] and ids("-f", "r?") == [1, 2] and ids("-f", "r*s") == [2]
    assert gm("gm-dead", "--group", "-f", b"r\xff").records[0]["function_b64"] == "cv8="
    assert "r\\xff" in terminal(gm, "gm-dead")


def test_a_function_that_nobody_used_says_which_there_are(gm, die):
    die("resize", b"1\n")
    assert gm("gm-dead", "-f", "resise").err == b""   # in a pipe: nothing
    shown = "".join(terminal(gm, "gm-dead", "-f", "resise").split())
    assert "nodeadjobsofresisein" in shown and "ithassomeofresize" in shown


def test_ids_and_selectors_exclude_each_other(gm, die):
    die("f", b"1\n")
    assert b"--match" in gm("gm-dead", "-m", "x", "1", status=2).err


@pytest.mark.slow
def test_a_regular_expression_that_takes_for_ever_can_be_interrupted(gm, die):
    """And holds no transaction meanwhile."""
    die("f", b"1\n", "echo " + "a" * 60 + "! >&2; exit 1")
    process = gm.start("gm-dead", "-m", "(a+)+$")
    until(lambda: process.poll() is None and cpu_seconds(process.pid) > 0.3, what="it is at it")
    with gm.database() as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    db.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_part_of_a_fingerprint_is_enough_and_bare_file_names_are_one_cause(gm, die):
    die("f", b"b.jpg\nd.jpg\n", "echo \"thumb: $(cat): no width given\" >&2; exit 65")
    group, = gm("gm-dead", "--group").records
    assert group["count"] == 2
    assert len(gm("gm-dead", "--fingerprint=" + group["fingerprint"][:5]).records) == 2
    assert not gm("gm-dead", "--fingerprint=" + "0" * 12).records


def test_an_empty_selection_says_that_nothing_matches(gm, die):
    die("f", b"x\n")
    assert b"no dead jobs that match in " in gm("gm-dead", "--table", "-m", "zzz").err
    assert b"no dead jobs that match in " in gm("gm-dead", "--table", "-f", "f", "-r", "hung").err
    assert b": it has some of f\n" in gm("gm-dead", "--table", "-f", "typo").err


def bury_many(gm, count, first=0, **fields):
    """Quarantine so many jobs, u0, u1, ..., with these fields."""
    record = {"function": "f", "data": "x", "last_failed": "2026-01-01T00:00:00Z", **fields}
    lines = (json.dumps({**record, "unique": f"u{number}"}) + "\n" for number in range(first, first + count))
    gm("gm-bury", "-q", input="".join(lines).encode())


@pytest.mark.slow
def test_newest_first(gm):
    bury_many(gm, 1200)

    def ids(*options):
        return idents(gm, "--newest", *options)
    assert ids() == list(range(1200, 0, -1)) and ids("-n", "5") == [1200, 1199, 1198, 1197, 1196]
    assert ids("--after=1197") == [1200, 1199, 1198] and ids("-f", "g") == [] and ids("-m", "^$", "-n1") == [1200]
    assert b"--newest" in gm("gm-dead", "--newest", "--group", status=2).err
    assert b"--newest" in gm("gm-dead", "--newest", "7", status=2).err


@pytest.mark.slow
def test_follow_prints_each_death_as_it_happens(gm):
    bury_many(gm, 5)
    follow = gm.start("gm-dead", "--follow", "-n", "2", "--newest", "-f", "f")

    def seen():
        return [json.loads(line)["id"] for line in follow.out_path.read_bytes().splitlines()]
    until(lambda: seen() == [5, 4])
    bury_many(gm, 700, first=100)
    bury_many(gm, 3, first=900, function="g")
    until(lambda: len(seen()) == 702)
    assert seen()[2:] == list(range(6, 706))
    record = gm("gm-dead", "3").records[0]   # dies again in its row
    again = {**record, "sends": record["sends"] + 1, "error": "again", "last_failed": None}
    gm("gm-bury", "-q", input=json.dumps(again).encode())
    until(lambda: len(seen()) == 703)
    last = json.loads(follow.out_path.read_bytes().splitlines()[-1])
    assert (last["id"], last["revision"], last["error"]) == (3, 2, "again")
    follow.send_signal(signal.SIGINT)
    assert follow.wait(20) == 130 and follow.err_path.read_bytes() == b""
    for options in (["--delayed"], ["--group"], ["7"]):
        assert b"--follow" in gm("gm-dead", "--follow", *options, status=2).err


def test_follow_ends_with_its_reader_and_with_its_file(gm):
    bury_many(gm, 1)
    assert json.loads(gm("bash", "-c", "set -o pipefail; gm-dead --follow | head -1").out)["id"] == 1
    follow = gm.start("gm-dead", "--follow")
    until(lambda: follow.out_path.read_bytes())
    os.rename(gm.env["GM_QUARANTINE"], gm.home / "old")
    assert follow.wait(20) == 111 and b"replaced while in use" in follow.err_path.read_bytes()


def test_a_table_of_causes_has_reason_and_error_at_80_columns(gm):
    error = "the disk of the archive is full: 17 GB are needed, 3 are there"
    bury_many(gm, 3, function="resize-photographs", reason="timeout", error=error)
    shown = terminal(gm, "gm-dead", "--group")
    assert "reason" in shown and "timeout" in shown and "the disk of the archive is full: 17 GB are needed" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_the_page_says_that_json_is_laid_out(gm):
    gm("gm-bury", "-q", input=json.dumps({"function": "f", "data": '{"a":1}', "reason": "disk\u202e"}).encode(), status=1)
    gm("gm-bury", "-q", input=json.dumps({"function": "f", "data": '{"a":1}'}).encode())
    assert "payload (7 bytes, JSON laid out):" in terminal(gm, "gm-dead", "1")


@pytest.mark.slow
def test_a_reason_that_gearmang_does_not_know_reaches_no_terminal_raw(gm):
    gm("gm-bury", "-q", input=b'{"function":"f","data":"x"}')
    with gm.database() as db:
        db.execute("UPDATE job SET reason = 'a\x1b[31m\u202e', error = NULL")
    for command in (["gm-dead", "1"], ["gm-dead"], ["gm-dead", "--group"]):
        assert "\x1b" not in terminal(gm, *command) and "\u202e" not in terminal(gm, *command)
