"""gm-requeue: back to the queue, and nothing lost on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
from conftest import until
from helpers import bury, dead_count, idents, listing_file, queued

EMPTY = ("gm-work", "--until-empty", "--tries=1", "--brake=0")


def test_a_job_comes_back_with_its_payload_and_its_history(gm, die, tmp_path):
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


def test_ids_and_records_from_standard_input(gm, die):
    die("f", b"1\n2\n3\n4\n")
    gm("gm-requeue", "--ids", input=b"2\n\n 3 \n")
    gm("gm-requeue", input=json.dumps({"id": 1, "other": 1}).encode() + b"\n")
    assert idents(gm) == [4]


@pytest.mark.slow
def test_a_payload_that_is_a_number_is_no_id(gm, die):
    die("f", b"2\n1\n")
    for tool in ("gm-requeue", "gm-drop"):
        result = gm("bash", "-c", f"gm-dead | jq -r .data | {tool}", status=1)
        assert b"stdin:1: not a JSON object: bare ids take --ids" in result.err and idents(gm) == [1, 2]
    assert b"--ids" in gm("gm-requeue", "--ids", "--edit", "1", status=2).err
    assert b"stdin:1: not an id" in gm("gm-drop", "--ids", input=b'{"id":1}\n', status=1).err and idents(gm) == [1, 2]


def test_bad_lines_are_reported_and_the_rest_is_done(gm, die):
    die("f", b"1\n2\n")
    result = gm("gm-requeue", input=b'nonsense\n{"function":"f","data":"x"}\n{"id":99}\n{"id":1}\n', status=1)
    assert b"stdin:1: " in result.err and b"stdin:2: no id" in result.err and b"stdin:3: 99: no such job" in result.err
    assert result.err.count(b"\n") == 3 and idents(gm) == [2]
    gm("gm-requeue", "--strict", input=b'nonsense\n{"id":2}\n', status=1)
    assert idents(gm) == [2]


def test_an_id_already_gone_is_passed_over(gm, die):
    die("f", b"1\n2\n")
    gm("gm-requeue", "1")
    result = gm("gm-requeue", "1", "2")
    assert [record["id"] for record in result.records] == [2] and b"1: requeued " in result.err


@pytest.mark.slow
def test_a_changed_record_is_refused_without_edit(gm, gearmand, die, tmp_path):
    die("f", b"/old/x\n")
    record = gm("gm-dead").records[0]
    record["data"] = "/new/x"
    line = json.dumps(record).encode() + b"\n"
    assert b"--edit" in gm("gm-requeue", input=line, status=1).err and idents(gm) == [1]
    record.update(function="g")
    gm("gm-requeue", "--edit", input=json.dumps(record).encode())
    gm(*EMPTY, "-q", "g", "--", "sh", "-c", f"cat > {tmp_path}/got")
    assert (tmp_path / "got").read_bytes() == b"/new/x" and gearmand.waiting(b"f") == 0


@pytest.mark.slow
def test_a_newer_death_is_never_removed_with_the_old_one(gm, die):
    die("f", b"1\n")
    old = gm("gm-dead").out
    gm("gm-requeue", input=old)
    gm(*EMPTY, "-q", "f", "--", "false")
    assert len(idents(gm)) == 1   # died again: another row, the first having left
    again = gm("gm-dead").out
    with gm.database() as db:   # as a death between the look and the requeue does
        db.execute("UPDATE job SET revision = revision + 1")
    result = gm("gm-requeue", input=again, status=1)
    assert b"failed again" in result.err and len(idents(gm)) == 1
    assert gm("gm-drop", input=again, status=1).out == b"" and len(idents(gm)) == 1


def test_any_worker_gets_the_payload_alone(gm, gearmand, die):
    die("f", b"payload\n")
    gm("gm-requeue", "1")
    result = gm("gearman", "-h", "127.0.0.1", "-p", gearmand.port, "-w", "-c", "1", "-f", "f", "--", "tee",
                gm.home / "got")
    assert (gm.home / "got").read_bytes() == b"payload", result


def test_no_server_leaves_everything_where_it_is(gm, gearmand, die):
    die("f", b"1\n2\n")
    result = gm("gm-requeue", "1", env={"GM_SERVERS": "127.0.0.1:1"}, status=111)
    assert b"127.0.0.1:1" in result.err and idents(gm) == [1, 2]
    gm("gm-requeue", "1", "2")
    assert gearmand.waiting(b"f") == 2


def test_empty_input_changes_nothing(gm):
    assert gm("gm-requeue", input=b"").err == b""


@pytest.mark.slow(10)
def test_killed_at_twenty_points_it_loses_nothing(gm, gearmand):
    """5,000 jobs, worked on all the while. Duplicates are those that gm-requeue has said there may be, at most."""
    bury(gm, [b"%d" % n for n in range(5000)])
    listing = listing_file(gm)
    worker = gm.start("gm-work", "--pipe", "f", "--", "jq", "-c", "--unbuffered", "{ok: true, result: .data}")
    dice, kills = random.Random(20), 0
    for _ in range(20):
        process = gm.start("gm-requeue", "-q", "--rate=4000", stdin=listing)
        left = max(0, dead_count(gm) - dice.randrange(0, 300))
        until(lambda: process.poll() is not None or dead_count(gm) <= left)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills > 10
    gm("gm-requeue", "-q", input=listing.read_bytes())
    assert idents(gm) == []
    until(lambda: gearmand.status()[b"f"][0] == 0, timeout=60)
    worker.terminate()
    assert worker.wait(20) == 0
    seen = [json.loads(line)["unique"] for line in worker.out_path.read_bytes().splitlines()]
    assert set(seen) == {f"u{n}" for n in range(5000)}
    print(f"{kills} kills, {len(seen) - 5000} jobs worked twice")
    assert len(seen) - 5000 <= kills * 400   # of a batch that a kill fell upon
    done = gm("gm-history", "--action=requeue").records
    assert len(done) == 5000 and {entry["unique"] for entry in done} == set(seen)


@pytest.mark.slow
def test_two_at_once_share_the_work(gm, gearmand):
    bury(gm, [b"%d" % n for n in range(500)])
    listing = listing_file(gm)
    both = [gm.start("gm-requeue", stdin=listing) for _ in range(2)]
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


# ---- payloads

ODD = [b"/old/plain", b"\xff\xfe/old/\x00\x80", "/old/ü\u2028\ufeff\U0001f600".encode(), b"", b"a\0b /old/",
       b'{"path":"/old/x"}\n\n', b"/other/", b"%gm1 {}\n/old/", "\ufffd\uffff\x7f".encode(), bytes(range(256)), b"\r\n\t",
       b"\xed\xa0\x80 /old/"]


def test_a_jq_edit_changes_what_it_names_and_no_byte_of_the_others(gm, gearmand):
    bury(gm, ODD)
    result = gm("bash", "-c", """gm-dead | jq -c '(.data|strings)|=sub("/old/";"/new/")' | gm-requeue --edit""")
    there = queued(gearmand)
    assert len(there) == len(ODD) and len(result.records) == len(ODD)
    for unique, header, data in there:
        before = ODD[int(unique[1:])]
        after = before.replace(b"/old/", b"/new/", 1) if is_text(before) else before   # data_b64: the filter does not name it
        assert data == after and header.requeues == 1
    edited = {entry["unique"]: entry["edited"] for entry in gm("gm-history", "--action=requeue").records}
    assert {f"u{n}": b"/old/" in data and is_text(data) for n, data in enumerate(ODD)} == edited


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_jq_in_between_changes_nothing(gm, gearmand):
    bury(gm, ODD)
    gm("bash", "-c", "gm-dead | jq -c . | gm-requeue -q")   # without --edit a difference would be refused
    assert sorted(data for _, _, data in queued(gearmand)) == sorted(ODD)


def test_both_data_and_data_b64_are_refused(gm, gearmand):
    bury(gm, [b"\xff"])
    record = {**gm("gm-dead").records[0], "data": "new"}
    assert b"both data and data_b64" in gm("gm-requeue", "--edit", input=json.dumps(record).encode(), status=1).err
    assert idents(gm) == [1] and gm("gm-history", "--action=requeue").records == []


@pytest.mark.slow
def test_priority_and_function_of_the_record(gm, gearmand):
    bury(gm, [b"1", b"2", b"3"])
    for change, status in (({"priority": "high"}, 0), ({"function": "g\n"}, 1), ({"priority": "urgent"}, 1)):
        ident = idents(gm)[0]
        record = {**gm("gm-dead", ident).records[0], **change}
        gm("gm-requeue", input=json.dumps(record).encode(), status=1)
        gm("gm-requeue", "--edit", input=json.dumps(record).encode(), status=status)
    assert idents(gm) == [2, 3]
    assert [header.priority for _, header, _ in queued(gearmand)] == ["high"]


# ---- two-phase


def test_what_a_dead_requeue_sent_merges_with_what_is_sent_again(gm, gearmand):
    """It was killed between the server's acknowledgement and the removal."""
    bury(gm, [b"1", b"2"])
    with gm.database() as db:
        db.execute("CREATE TRIGGER stop BEFORE DELETE ON job BEGIN SELECT raise(ABORT, 'cut off here'); END")
    assert b"cut off here" in gm("gm-requeue", "1", "2", status=111).err
    with gm.database() as db:
        db.execute("DROP TRIGGER stop")
    assert gearmand.waiting(b"f") == 2 and idents(gm) == [1, 2]
    result = gm("gm-requeue", "1", "2")
    assert b"2 of these jobs may run twice" in result.err
    assert gearmand.waiting(b"f") == 2 and idents(gm) == [] and len(gm("gm-history", "--action=requeue").records) == 2


@pytest.mark.slow
def test_what_is_sent_in_another_way_does_not_merge_with_what_may_still_run(gm, gearmand):
    """An edit is another job; a client that waits is another sending."""
    bury(gm, [b"1"])
    record = gm("gm-dead").records[0]
    edited = json.dumps({**record, "data": "2"}).encode()
    with gm.database() as db:
        db.execute("CREATE TRIGGER stop BEFORE DELETE ON job BEGIN SELECT raise(ABORT, 'cut off here'); END")
    for options, input in ((["1"], b""), (["1"], b""), (["--edit"], edited), (["--edit"], edited)):
        gm("gm-requeue", "-q", *options, input=input, status=111)
    first, second = queued(gearmand)   # each of the two ways once
    assert (first[1].sends, first[1].key) == (1, int(record["key"], 16))
    assert second[1].sends == 0 and second[1].key != first[1].key
    waiting = gm.start("gm-requeue", "-q", "--wait", "1")
    until(lambda: gearmand.waiting(b"f") == 3)
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(20) == 130


@pytest.mark.slow
def test_a_copy_that_ended_is_not_merged_with(gm, gearmand):
    """It failed for a client that waited: its answer may be on the way while the job is sent again."""
    bury(gm, [b"x"])
    worker = gm.start("gm-work", "-q", "f", "--", "false")
    gm("gm-requeue", "--wait", "1", status=1)
    worker.terminate()
    worker.wait(20)
    gm("gm-requeue", "-q", "1")
    (_, header, _), = queued(gearmand)
    assert header.sends == 2 and header.attempts == 0 and header.requeues == 1


def test_drained_jobs_keep_their_counts(gm, gearmand):
    lines = [json.dumps({"function": "f", "unique": f"u{number}", "data": "x", "reason": reason, "attempts": 2, "requeues": 1,
                         "first_failed": "2026-01-01T00:00:00Z"}) for number, reason in enumerate(("drained", "error"))]
    gm("gm-bury", "-q", input="\n".join(lines).encode())
    gm("bash", "-c", "gm-dead | gm-requeue -q")
    counts = {unique: (header.attempts, header.requeues, header.first_failed) for unique, header, _ in queued(gearmand)}
    assert counts == {b"u0": (2, 1, 1767225600), b"u1": (0, 2, 1767225600)}


@pytest.mark.slow
@pytest.mark.parametrize("edit", [
    ".data=5", ".data=null", ".data={}", ".function=7", ".function=null", ".priority=null", ".priority=1",
    "del(.data)|.data_b64=5", ".revision=null", ".data_b64=\"eA==\""])
def test_a_field_that_is_there_is_meant(gm, gearmand, edit):
    bury(gm, [b"1", b"2"])
    result = gm("bash", "-c", f"gm-dead | jq -c '{edit}' | gm-requeue --edit", status=1)
    assert result.out == b"" and result.err.count(b"gm-requeue: stdin:") == 2 == result.err.count(b"\n"), result
    assert idents(gm) == [1, 2] and gearmand.status() == {} and gm("gm-history", "--action=requeue").records == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_has_a_record_for_each_job_it_sent(gm, gearmand, number):
    bury(gm, [b"x"] * 100)
    with open(listing_file(gm), "rb") as listing:
        process = gm.start("gm-requeue", "--rate=20", stdin=listing)
    until(lambda: process.out_path.read_bytes().count(b"\n") >= 3)
    process.send_signal(number)
    assert process.wait(20) == 130
    sent = [json.loads(line)["id"] for line in process.out_path.read_bytes().splitlines()]
    assert len(sent) == gearmand.waiting(b"f") == 100 - len(idents(gm)) >= 3 and not set(sent) & set(idents(gm))


@pytest.mark.slow
def test_what_a_lost_server_had_taken_is_printed(gm, gearmand):
    bury(gm, [b"x"] * 100)
    with open(listing_file(gm), "rb") as listing:
        process = gm.start("gm-requeue", "--rate=20", stdin=listing)
    until(lambda: process.out_path.read_bytes().count(b"\n") >= 3)
    gearmand.kill()
    assert process.wait(60) == 111
    sent = process.out_path.read_bytes().count(b"\n")
    assert sent == 100 - len(idents(gm)) and f"{sent} jobs sent back before that".encode() in process.err_path.read_bytes()


# ---- retries that a living process could not release


def leave_a_due_retry(gm):
    """A job whose retry is due, and no worker there to release it."""
    gm("gm-submit", "-q", "f", input=b"1\n")
    gm("gm-work", "-q", "--until-empty", "--delay=1h", "f", "--", "false")
    with gm.database() as db:
        db.execute("UPDATE job SET due = 1")


@pytest.mark.slow
def test_a_release_that_a_hung_server_cut_off_is_tried_again(gm, gearmand):
    leave_a_due_retry(gm)
    gearmand.process.send_signal(signal.SIGSTOP)
    worker = gm.start("gm-work", "-q", "--delay=1h", "g", "--", "true")
    until(lambda: b"no answer" in worker.err_path.read_bytes(), timeout=60)
    until(lambda: gm("gm-dead", "--delayed").records[0]["state"] == "delayed")   # not claimed any more
    gearmand.process.send_signal(signal.SIGCONT)
    until(lambda: gearmand.waiting(b"f") == 1, timeout=60)
    until(lambda: gm("gm-dead", "--delayed").records == [])
    worker.terminate()
    assert worker.wait(20) == 0 and gearmand.waiting(b"f") == 1


@pytest.mark.slow
def test_a_release_that_could_not_be_written_is_overdue_until_it_can(gm, gearmand):
    """As where the disk is full between the server's acknowledgement and the removal; the second copy merges with the first."""
    leave_a_due_retry(gm)
    with gm.database() as db:
        db.execute("CREATE TRIGGER stop BEFORE DELETE ON job BEGIN SELECT raise(ABORT, 'cut off here'); END")
    worker = gm.start("gm-work", "-q", "--delay=1h", "g", "--", "true")
    until(lambda: b"cut off here" in worker.err_path.read_bytes())
    until(lambda: [record["trouble"] for record in gm("gm-status", "-f", "f").records if "overdue" in (record["trouble"] or "")])
    until(lambda: gm("gm-dead", "--delayed").records[0]["state"] == "delayed")   # not claimed any more
    with gm.database() as db:
        db.execute("DROP TRIGGER stop")
    until(lambda: gm("gm-dead", "--delayed").records == [])
    assert gearmand.waiting(b"f") == 1 and worker.poll() is None


@pytest.mark.slow(10)
def test_deaths_in_the_meantime_are_still_there(gm, gearmand):
    """Jobs die again, and others with the same uniques die too, while they are being sent back."""
    uniques = [b"u%d" % n for n in range(30)]
    bury(gm, [b"first %d" % n for n in range(30)])
    worker = gm.start("gm-work", "-q", "-j", "2", "--tries=1", "--brake=0", "f", "--", "false")
    requeue = gm.start("gm-requeue", "--rate=100", stdin=listing_file(gm))
    lines = [json.dumps({"function": "f", "unique": unique.decode(), "data": "other"}) for unique in uniques]
    gm("gm-submit", "-q", input="\n".join(lines).encode())
    requeue.wait(30)
    until(lambda: dead_count(gm) == 60 and gearmand.status()[b"f"][0] == 0)
    worker.terminate()
    assert worker.wait(20) == 0
    records = gm("gm-dead").records
    assert sorted(record["data"] for record in records) == sorted(["other"] * 30 + [f"first {n}" for n in range(30)])
    assert all(record["requeues"] == (record["data"] != "other") for record in records)
    assert len(gm("gm-history", "--action=requeue").records) == 30


@pytest.mark.slow
def test_a_job_that_comes_back_a_third_time_shows_it(gm, die):
    die("f", b"1\n")
    for _ in range(3):
        gm("bash", "-c", "gm-dead | gm-requeue -q")
        die("f", b"")
    record, = gm("gm-dead").records
    assert record["requeues"] == 3 and record["attempts"] == 1 and len(gm("gm-history", "--action=requeue").records) == 3


@pytest.mark.slow
def test_a_delayed_retry_is_sent_now(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"1\n")
    gm("gm-work", "-q", "--until-empty", "--delay=1h", "f", "--", "false")
    gm("bash", "-c", "gm-dead --delayed | gm-requeue -q")
    assert gearmand.waiting(b"f") == 1 and gm("gm-dead", "--delayed").records == []


# ---- --wait, --rate


@pytest.mark.slow
def test_wait_keeps_what_fails(gm, gearmand):
    bury(gm, [b"good", b"bad", b"good"])
    worker = gm.start("gm-work", "-q", "f", "--", "sh", "-c",
                      "read -r p; test $p = good && echo done || { echo no such luck >&2; exit 1; }")
    result = gm("gm-requeue", "--wait", "1", "2", "3", status=1)
    assert sorted(record["id"] for record in result.records) == [1, 3]
    assert all(record["result"] == "done\n" and record["duration"] > 0 for record in result.records)
    assert b"2: failed: no such luck: it stays in quarantine" in result.err
    assert idents(gm) == [2]
    assert [entry["job"] for entry in gm("gm-history", "--action=requeue").records] == [record["id"] for record in result.records]
    record, = gm("gm-dead").records
    assert record["revision"] == 1 and record["state"] == "dead" and record["requeues"] == 0
    worker.terminate()
    worker.wait(20)


@pytest.mark.slow
def test_wait_tells_the_error_of_a_verdict(gm, gearmand):
    bury(gm, [b"x"])
    worker = gm.start("gm-work", "-q", "--pipe", "f", "--",
                      "jq", "-c", "--unbuffered", '{ok: false, verdict: "dead", error: "no luck"}')
    assert b"1: failed: no luck: it stays in quarantine" in gm("gm-requeue", "--wait", "1", status=1).err
    worker.terminate()
    worker.wait(20)


@pytest.mark.slow
def test_a_canary_stops_the_requeue(gm, gearmand):
    bury(gm, [b"x"] * 20)
    canary = "gm-dead -f f -n 1 | gm-requeue -q --wait && gm-dead -f f | gm-requeue -q"
    broken = gm.start("gm-work", "-q", "f", "--", "false")
    gm("bash", "-c", canary, status=1)
    broken.terminate()
    broken.wait(20)
    assert len(idents(gm)) == 20 and gearmand.waiting(b"f") == 0
    mended = gm.start("gm-work", "-q", "f", "--", "true")
    gm("bash", "-c", canary)
    until(lambda: gearmand.status()[b"f"][0] == 0)
    assert idents(gm) == []
    mended.terminate()
    mended.wait(20)


def test_an_interrupted_wait_gives_everything_back(gm, gearmand):
    bury(gm, [b"x"] * 3)
    process = gm.start("gm-requeue", "--wait", "1", "2", "3")
    until(lambda: gearmand.waiting(b"f") == 3)
    assert {record["state"] for record in gm("gm-dead").records} == {"claimed"}
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.err_path.read_bytes().startswith(b"gm-requeue: no result yet of 3 jobs: still in quarantine")
    assert {record["state"] for record in gm("gm-dead").records} == {"dead"}


@pytest.mark.slow
def test_no_more_than_so_many_a_second(gm, gearmand):
    bury(gm, [b"x"] * 8)
    begin = time.monotonic()
    process = gm.start("bash", "-c", "gm-dead | gm-requeue -q --rate 10")
    until(lambda: 0 < gearmand.waiting(b"f") < 8)   # one by one, not all in the end
    assert process.wait(20) == 0
    assert time.monotonic() - begin >= 0.7 and gearmand.waiting(b"f") == 8
    for rate in ("0", "-1", "fast"):
        gm("gm-requeue", f"--rate={rate}", "1", status=2)


@pytest.mark.slow
def test_a_rate_of_jobs_that_are_waited_for(gm, gearmand):
    bury(gm, [b"x"] * 8)
    worker = gm.start("gm-work", "-q", "f", "--", "true")
    until(lambda: gearmand.status().get(b"f", (0, 0, 0))[2])
    process = gm.start("gm-requeue", "-q", "--wait", "--rate=10", *range(1, 9))
    until(lambda: 0 < dead_count(gm) < 8)
    assert process.wait(20) == 0 and dead_count(gm) == 0
    worker.terminate()
    worker.wait(20)


@pytest.mark.slow
def test_a_slow_requeue_holds_nobody_up(gm, gearmand):
    """gm-dead waits for it in the middle of its listing: it has no transaction open, and the WAL can be emptied."""
    bury(gm, [b"x" * 2000] * 1000)
    both = gm.start("bash", "-c", "gm-dead | gm-requeue -q --rate 20", start_new_session=True)
    until(lambda: gearmand.waiting(b"f") >= 3)
    with gm.database(timeout=20) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    bury(gm, [b"y" * 2000] * 1500, "g")
    assert (gm.home / "quarantine.db-wal").stat().st_size < 16 << 20
    os.killpg(both.pid, signal.SIGTERM)
    both.wait(20)


@pytest.mark.slow
def test_strict_ends_at_the_first_that_is_bad(gm, gearmand):
    bury(gm, [b"x"] * 4)
    assert b"99: no such job" in gm("gm-requeue", "--strict", "1", "99", "2", status=1).err
    assert idents(gm) == [2, 3, 4]
    gm("gm-requeue", "--strict", input=b'{"id":2}\n{}\n{"id":3}\n', status=1)
    assert idents(gm) == [3, 4]
    gm("gm-drop", "--strict", "3", "99", "4", status=1)
    assert idents(gm) == [4] and gearmand.waiting(b"f") == 2


@pytest.mark.slow
def test_an_interrupt_says_how_far_it_came(gm, gearmand):
    bury(gm, [b"x"] * 100)
    process = gm.start("gm-requeue", "--rate=10", stdin=listing_file(gm))
    until(lambda: dead_count(gm) <= 97)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    sent = 100 - len(idents(gm))
    assert f"{sent} jobs sent back before that".encode() in process.err_path.read_bytes()
    assert gearmand.waiting(b"f") == sent == len(gm("gm-history", "--action=requeue").records)


@pytest.mark.slow
def test_a_reader_that_goes_away(gm, gearmand):
    bury(gm, [b"x"] * 5000)
    result = gm("bash", "-c", "set -o pipefail; gm-dead | gm-requeue | head -1", status=None)
    assert b"its reader has gone: stopped after " in result.err
    assert len(idents(gm)) + gearmand.waiting(b"f") == 5000
    assert len(gm("gm-history", "--action=requeue").records) == gearmand.waiting(b"f")
