"""gm-collect: failed jobs of other machines, of the original Gearmang, and whatever else comes, end up in its file."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal

import pytest
from conftest import Tools, until

pytestmark = pytest.mark.slow

ONCE = ("gm-collect", "--until-empty")


@pytest.fixture
def elsewhere(gm, gearmand, tmp_path):
    """Another machine's tools: its own home and quarantine file, the same server."""
    (tmp_path / "elsewhere").mkdir()
    tools = Tools(tmp_path / "elsewhere")
    tools.env["GM_SERVERS"] = gearmand.server
    yield tools
    tools.end()


def fail(gm, count, *options, function="f"):
    """Jobs that fail where gm is, sent to gm-collect."""
    gm("gm-submit", "-q", function, input=b"".join(b"job %d\n" % number for number in range(count)))
    gm("gm-work", "--until-empty", "--tries=1", "--brake=0", "--via=gearmang", "-q", *options, function, "--",
       "sh", "-c", "echo why >&2; exit 3")


def test_a_job_that_failed_on_one_machine_is_quarantined_on_another_and_sent_back(gm, elsewhere, gearmand):
    gm("gm-submit", "--unique=mine", "--priority=high", "f", input=b"payload\n")
    worker = elsewhere("gm-work", "--until-empty", "--tries=2", "--delay=0", "--via=gearmang", "f", "--", "sh", "-c",
                       "echo why >&2; exit 3")
    assert [event["event"] for event in worker.records] == ["retry", "dead"]
    assert elsewhere("gm-dead").records == []
    printed, = gm(*ONCE).records
    record, = gm("gm-dead").records
    assert {name: record[name] for name in ("function", "unique", "data", "reason", "error", "exit", "attempts")} == {
        "function": "f", "unique": "mine", "data": "payload", "reason": "error", "error": "why", "exit": 3, "attempts": 2}
    assert record["server"] == gearmand.server and record["host"] == os.uname().nodename and record["first_failed"]
    assert printed == record
    gm("gm-requeue", record["id"])
    event, = elsewhere("gm-work", "--until-empty", "f", "--", "cat").records
    assert (event["event"], event["unique"], event["attempts"]) == ("done", "mine", 1)
    assert gm("gm-dead").records == []


def test_failure_jobs_of_the_original_gearmang(gm, gearmand):
    old = [{"unique_key": "old-1", "task": "resize", "data": "{\"width\": 640}", "time": 1700000000.5,
            "exception": "Traceback (most recent call last):\n  File \"x.py\", line 1\nValueError: no width\n"},
           {"unique_key": "old-2", "task": "resize", "data": {"width": 640}, "time": 1700000001, "exception": None},
           {"task": "resize", "data": "é\ud83d\ude00", "exception": {"type": "E"}}]
    gm("gm-submit", "-q", "gearmang", input=b"".join(json.dumps(job).encode() + b"\n" for job in old))
    assert len(gm(*ONCE).records) == 3
    records = gm("gm-dead", "-f", "resize").records
    assert [(r["unique"], r["data"], r["error"], r["reason"], r["attempts"]) for r in records[:2]] == [
        ("old-1", "{\"width\": 640}", "ValueError: no width", "collected", 1),
        ("old-2", "{\"width\": 640}", "", "collected", 1)]
    assert records[0]["last_failed"] == "2023-11-14T22:13:20Z" and "Traceback" in records[0]["stderr"]
    assert records[2]["data"] == "é😀"
    gm("gm-requeue", *(record["id"] for record in records))
    assert gearmand.waiting(b"resize") == 3


@pytest.mark.parametrize("payload", [
    b"no JSON", b"\xff\0\xfe", b"[]", b"17", b"{", b'{"task":7}', b'{"task":""}', b'{"task":"a\\u0000b","data":"x"}',
    b'{"function":"f"}', b'{"function":"f","data":5}', b'{"function":"f","data":"x","key":"short"}',
    b'{"function":"f","data":"x","attempts":-1}', b'{"function":"f","data":"x","last_failed":"yesterday"}',
    b'{"function":"f","data_b64":"!"}', b'{"task":"x","exception":"\\ud800","unique_key":"\\udfff"}',
    b"[" * 100000, b'{"task":"x","time":NaN,"data":1e999}',
    b'{"function":"f","data":"x","attempts":' + b"9" * 5000 + b"}",
], ids=lambda payload: repr(payload[:24]))
def test_what_cannot_be_read_is_quarantined_as_it_is(gm, gearmand, payload):
    gm("gm-submit", "-q", "--unique=odd", "gearmang", "-", input=payload)
    gm(*ONCE, "-q")
    record, = gm("gm-dead").records
    data = base64.b64decode(record["data_b64"]) if "data_b64" in record else record["data"].encode()
    if record["function"] == "gearmang":
        assert (data, record["unique"], record["reason"]) == (payload, "odd", "collected")
        assert record["error"].startswith("collected as it was: ")
    else:   # odd, but what it was can be told
        assert payload.startswith(b'{"task":"x"') and record["function"] == "x"
    until(lambda: gearmand.status()[b"gearmang"][0] == 0)


def test_a_record_cannot_name_a_file_of_this_machine(gm, gearmand, tmp_path):
    """Whoever can submit a job could else have any file shown, and removed by gm-drop."""
    (tmp_path / "secret").write_text("secret")
    for name in ("secret", str(tmp_path / "secret"), "/etc/passwd"):
        line = json.dumps({"function": "f", "data": name, "payload_file": name})
        gm("gm-submit", "-q", "gearmang", input=line.encode() + b"\n")
    gm(*ONCE, "-q")
    records = gm("gm-dead").records
    assert len(records) == 3 and not any(record.get("payload_file") for record in records)
    assert [json.loads(gm("gm-dead", "--data", record["id"]).out)["function"] for record in records] == ["f", "f", "f"]


def test_the_same_failure_twice_is_one_row(gm, gearmand, elsewhere):
    fail(elsewhere, 1)
    first, = gm(*ONCE).records
    gm("gm-submit", "-q", "gearmang", input=json.dumps(first).encode() + b"\n")
    gm(*ONCE, "-q")
    record, = gm("gm-dead").records
    assert (record["id"], record["revision"]) == (first["id"], first["revision"])


def test_equal_failures_that_arrive_as_different_jobs_are_different(gm, gearmand):
    old = json.dumps({"unique_key": "u", "task": "f", "data": "x", "time": 1700000000, "exception": "why"}).encode()
    record = b'{"function":"f","data":"x","last_failed":"2026-01-01T00:00:00Z"}'
    gm("gm-submit", "-q", "gearmang", input=b"\n".join([old, old, old, record, record, b"no JSON", b"no JSON"]))
    assert len(gm(*ONCE).records) == 7
    records = gm("gm-dead").records
    assert len(records) == 7 == len({record["key"] for record in records})


def test_a_forged_key_harms_only_the_forger(gm, gearmand, elsewhere):
    fail(elsewhere, 1)
    mine, = gm(*ONCE).records
    forged = [{**mine, "sends": mine["sends"] + 1, **change} for change in ({"data": "forged"}, {"function": "forged"})]
    gm("gm-submit", "-q", "gearmang", input="\n".join(map(json.dumps, forged)).encode())
    gm(*ONCE, "-q")
    first, *others = gm("gm-dead").records
    assert first == mine and len(others) == 2 and not any(other["key"] == mine["key"] for other in others)


@pytest.mark.parametrize("change", [{"unique": "u" * 64}, {"unique": "a\0b"}, {"requeues": 1_000_001}, {"sends": 4096},
                                    {"reason": "a\x1b[31m"}], ids=str)
def test_what_cannot_be_carried_is_collected_as_it_was(gm, gearmand, change):
    payload = json.dumps({"function": "f", "data": "x", **change}).encode()
    gm("gm-submit", "-q", "gearmang", "-", input=payload)
    gm(*ONCE, "-q")
    record, = gm("gm-dead").records
    assert (record["function"], record["data"].encode(), record["error"][:21]) == ("gearmang", payload, "collected as it was: ")
    gm("gm-requeue", "-q", record["id"])
    assert gearmand.waiting(b"gearmang") == 1


@pytest.mark.parametrize("text", ["a" * 400_000, "a@" * 200_000, "«" * 400_000], ids=lambda text: text[:2])
def test_a_long_error_kills_no_collector(gm, gearmand, text):
    collector = gm.start("gm-collect")
    lines = [{"function": "f", "data": "x", "error": text}, {"task": "f", "data": "x", "exception": text},
             {"function": "f", "data": "last"}]
    gm("gm-submit", "-q", "gearmang", input="\n".join(map(json.dumps, lines)).encode())
    until(lambda: collector.out_path.read_bytes().count(b"\n") == 3, timeout=20)
    collector.terminate()
    assert collector.wait(10) == 0
    assert [len(record["error"]) for record in gm("gm-dead").records] == [1000, 1000, 0]


def test_nothing_is_lost_or_doubled_when_it_is_killed_again_and_again(gm, gearmand, elsewhere):
    fail(elsewhere, 600, "-j2", function="f")
    for _ in range(3):
        collector = gm.start("gm-collect")
        until(lambda: collector.out_path.stat().st_size or not gearmand.status()[b"gearmang"][0])
        collector.kill()
        collector.wait(10)
    gm(*ONCE, "-q", timeout=60)
    assert sorted(record["data"] for record in gm("gm-dead").records) == sorted(f"job {number}" for number in range(600))
    until(lambda: gearmand.status()[b"gearmang"][0] == 0)


def test_what_the_file_does_not_take_is_not_acknowledged(gm, gearmand, elsewhere):
    collector = gm.start("gm-collect")
    until(lambda: gearmand.status().get(b"gearmang", (0, 0, 0))[2])
    hard = resource.prlimit(collector.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(collector.pid, resource.RLIMIT_FSIZE, (4096, hard))   # what a full disk is to SQLite
    fail(elsewhere, 20)
    until(lambda: b"trying again" in collector.err_path.read_bytes())
    assert gearmand.status()[b"gearmang"][0] == 20 and gm("gm-dead").records == []
    resource.prlimit(collector.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    until(lambda: gearmand.status()[b"gearmang"][0] == 0)
    assert len(gm("gm-dead").records) == 20
    assert collector.err_path.read_bytes().count(b"\n") == 2   # trying again, going on
    collector.terminate()
    assert collector.wait(10) == 0


def test_jobs_of_two_servers_of_which_one_goes(gm, gearmand, new_gearmand, elsewhere):
    two = new_gearmand("two.db")
    collector = gm.start("gm-collect", "-s", f"{gearmand.server},{two.server}")
    for server in (gearmand, two):
        until(lambda: server.status().get(b"gearmang", (0, 0, 0))[2])
    gm("gm-submit", "-q", "-s", two.server, "gearmang", input=b"a\n")
    until(lambda: len(gm("gm-dead").records) == 1)
    two.kill()
    fail(elsewhere, 5)
    until(lambda: len(gm("gm-dead").records) == 6)
    until(lambda: gearmand.status()[b"gearmang"][0] == 0)
    assert b"connection lost" in collector.err_path.read_bytes()


@pytest.mark.slow(15)
def test_the_largest_payloads_come_through_and_a_larger_one_is_kept_in_a_file(gm, gearmand, elsewhere):
    payload = b"\1" * (50 << 20)   # which JSON makes six times as long, and base64 too long for a worker
    gm("gm-submit", "-q", "f", "-", input=payload)
    elsewhere("gm-work", "--until-empty", "--tries=1", "--via=gearmang", "-q", "f", "--", "false")
    large = gm.home / "large"
    large.write_bytes(b"x" * (130 << 20))
    gm("gm-submit", "-q", "gearmang", large, large)   # two jobs, of which each has a row and a file
    gm(*ONCE, "-q")
    with gm.database() as db:
        assert db.execute("SELECT count(*), count(DISTINCT payload_file) FROM job WHERE reason = 'rejected'").fetchone() == (2, 2)
        found = {reason: (ident, error, path) for ident, reason, error, path in
                 db.execute("SELECT id, reason, error, payload_file FROM job")}
    assert gm("gm-dead", "--data", found["error"][0]).out == payload
    assert found["rejected"][1] == "payload of 136314880 bytes: more than 128 MiB"
    assert os.stat(found["rejected"][2]).st_size == 130 << 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_it_stops_in_order(gm, gearmand, elsewhere, number):
    collector = gm.start("gm-collect")
    fail(elsewhere, 3)
    until(lambda: len(collector.out_path.read_bytes().splitlines()) == 3)
    collector.send_signal(number)
    assert collector.wait(10) == 0
    assert collector.err_path.read_bytes() == b""
    assert gearmand.status()[b"gearmang"] == (0, 0, 0)


def test_its_reader_goes_away(gm, gearmand, elsewhere):
    fail(elsewhere, 3)
    reading, writing = os.pipe()
    os.close(reading)
    collector = gm.start(*ONCE, stdout=writing)
    os.close(writing)
    assert collector.wait(20) == 1 and b"its reader has gone: stopping after" in collector.err_path.read_bytes()
    assert len(gm("gm-dead").records) + gearmand.waiting(b"gearmang") == 3


def test_misuse(gm, gearmand):
    assert b"function" in gm("gm-collect", "x" * 600, status=2).err
    assert b"connect" in gm(*ONCE, "-s", "127.0.0.1:1", status=111).err
    (gm.home / "text").write_text("no database\n" * 100)
    assert b"not a quarantine file" in gm(*ONCE, f"--quarantine={gm.home}/text", status=111).err


def test_another_function_and_its_entry_in_the_file(gm, gearmand):
    gm("gm-submit", "-q", "failures", input=b"x\n")
    assert gm(*ONCE).records == []
    assert len(gm(*ONCE, "failures").records) == 1
    collector = gm.start("gm-collect", "failures")
    record = until(lambda: [r for r in gm("gm-status", "--workers").records if r["source"] == "file" and r["alive"]])[0]
    assert (record["tool"], record["function"], record["pid"]) == ("gm-collect", "failures", collector.pid)
    collector.terminate()
    assert collector.wait(10) == 0
    with gm.database() as db:
        assert db.execute("SELECT count(*) FROM process").fetchone() == (0,)
