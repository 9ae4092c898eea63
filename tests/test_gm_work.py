"""gm-work against a real gearmand: what becomes of jobs that succeed, fail, hang, crash and kill."""

from __future__ import annotations

import json
import os
import signal

import pytest
from conftest import until
from helpers import ended

SUBMIT = "gm-submit"
EMPTY = ("gm-work", "--until-empty")
NOW = ("gm-work", "--until-empty", "--delay=0")


def work_until_empty(gm, function, *command, options=(), **keywords):
    return gm("gm-work", "--until-empty", "--delay=0", *options, function, "--", *command, **keywords)


def dead(gm, *options):
    return gm("gm-dead", *options).records


def test_result_is_the_command_s_output_for_a_waiting_client(gm, gearmand):
    gm.start("gm-work", "up", "--", "tr", "a-z", "A-Z")
    until(lambda: gearmand.status().get(b"up", (0, 0, 0))[2])
    assert gm("gearman", "-h", "127.0.0.1", "-p", gearmand.port, "-f", "up", "hello").out == b"HELLO"


def test_payload_bytes_reach_the_command_exactly(gm, gearmand, tmp_path):
    payload = bytes(range(256)) * 3 + "é✓".encode() + b"\r\n\0"
    gm(SUBMIT, "up", "-", input=payload)
    gm(*EMPTY, "up", "--", "sh", "-c", f"cat > {tmp_path}/got")
    assert (tmp_path / "got").read_bytes() == payload


@pytest.mark.slow
def test_large_payload_and_result(gm, gearmand, tmp_path):
    payload = os.urandom(1 << 20) * 16
    gm(SUBMIT, "big", "-", input=payload)
    gm(*EMPTY, "big", "--", "sh", "-c", f"tee {tmp_path}/got")
    assert (tmp_path / "got").read_bytes() == payload


def test_event_tells_all_about_a_done_job(gm, gearmand):
    gm(SUBMIT, "--unique=one", "up", input=b"x\n")
    event, = gm(*EMPTY, "up", "--", "sh", "-c", "cat; echo '{\"width\":640}' >&3").records
    assert event["event"] == "done" and event["function"] == "up" and event["unique"] == "one"
    assert event["attempts"] == 1 and event["exit"] == 0 and event["signal"] is None and event["reason"] is None
    assert event["extra"] == {"width": 640} and event["server"] == gearmand.server and event["duration"] > 0
    assert set(event) == {"event", "time", "function", "unique", "handle", "attempts", "duration", "exit", "signal",
                          "reason", "error", "worker", "host", "server", "extra"}


def test_failing_jobs_are_tried_three_times_then_quarantined(gm, gearmand):
    gm(SUBMIT, "bad", input=b"1\n2\n3\n")
    result = work_until_empty(gm, "bad", "sh", "-c", "echo why >&2; exit 3")
    assert [event["event"] for event in result.records].count("retry") == 6
    assert sorted(event["attempts"] for event in result.records) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert result.err.count(b"quarantined") == 3
    records = dead(gm, "-f", "bad")
    assert [(r["attempts"], r["exit"], r["error"], r["reason"], r["data"]) for r in sorted(records, key=lambda r: r["data"])] == [
        (3, 3, "why", "error", "1"), (3, 3, "why", "error", "2"), (3, 3, "why", "error", "3")]
    until(lambda: gearmand.status()[b"bad"][0] == 0)
    gm("gm-requeue", input=gm("gm-dead", "-f", "bad").out)
    assert len(work_until_empty(gm, "bad", "cat").records) == 3
    assert dead(gm, "-f", "bad") == []


def test_command_never_sees_the_envelope_and_knows_its_attempt(gm, gearmand, tmp_path):
    gm(SUBMIT, "--unique=mine", "f", input=b"payload\n")
    work_until_empty(gm, "f", "sh", "-c",
                     f'echo "$GM_ATTEMPT $GM_UNIQUE $GM_FUNCTION $GM_JOB_SERVER $(cat)" >> {tmp_path}/seen; exit 1')
    assert (tmp_path / "seen").read_text().splitlines() == [
        f"{attempt} mine f {gearmand.server} payload" for attempt in (1, 2, 3)]


@pytest.mark.slow
def test_delayed_retry_waits_in_the_file_and_is_run_when_due(gm, gearmand, tmp_path):
    gm(SUBMIT, "later", input=b"x\n")
    left = gm("gm-work", "--until-empty", "--delay=1h", "later", "--", "false").err.splitlines()[-1]
    assert left.startswith(b"gm-work: later: 1 delayed job left, the first due in 3") and left.endswith(b"what is due")
    record, = dead(gm, "--delayed")
    assert record["state"] == "delayed" and record["attempts"] == 1 and record["due"]
    until(lambda: gearmand.status()[b"later"][0] == 0)
    assert dead(gm) == []
    assert gm(*EMPTY, "later", "--", "cat").records == []   # not due yet
    # further off than --max-delay: the clock was stepped, it is released now
    worker = gm.start("gm-work", "--max-delay=1s", "other", "--", "cat")
    with gm.database() as db:
        db.execute("UPDATE job SET due = due - 3600")
    until(lambda: gearmand.waiting(b"later"), what="released by a worker of another function")
    assert dead(gm, "--delayed") == []
    worker.terminate()
    assert worker.wait(10) == 0
    event, = gm(*EMPTY, "later", "--", "cat").records
    assert (event["event"], event["attempts"]) == ("done", 2)


@pytest.mark.slow
def test_two_jobs_with_one_unique_both_fail_and_keep_their_payloads(gm, gearmand):
    gm(SUBMIT, "--unique=same", "u", input=b"first\n")
    gm("gm-work", "--until-empty", "--tries=2", "--delay=1", "u", "--", "false")
    gm(SUBMIT, "--unique=same", "u", input=b"second\n")
    until(lambda: gm("gm-work", "--until-empty", "--tries=2", "--delay=1", "u", "--", "false", status=0)
          and len(dead(gm, "-f", "u")) == 2, what="both are dead")
    assert sorted((r["unique"], r["data"]) for r in dead(gm)) == [("same", "first"), ("same", "second")]


@pytest.mark.slow
def test_retry_survives_kill_9_of_the_server(gm, gearmand):
    gm(SUBMIT, "--unique=k", "k", input=b"x\n")
    gm("gm-work", "--until-empty", "--max-jobs=1", "--delay=0", "-q", "k", "--", "false")
    worker = gm.start("gm-work", "--delay=0", "k", "--", "sh", "-c", "test $GM_ATTEMPT = 3")
    until(lambda: gearmand.status().get(b"k", (1, 0, 0))[0] == 0)
    worker.terminate()
    worker.wait(10)
    gm(SUBMIT, "--unique=k", "k2", input=b"x\n")
    gm("gm-work", "--until-empty", "--tries=9", "--delay=1h", "k2", "--", "false")   # waits in the file
    gearmand.kill()
    gearmand.start()
    assert dead(gm, "--delayed")[0]["data"] == "x"


@pytest.mark.slow
def test_retry_in_the_queue_survives_kill_9_of_the_server(gm, gearmand):
    gm(SUBMIT, "q", input=b"x\n")
    worker = gm.start("gm-work", "--delay=0", "--tries=100000", "--brake=0", "q", "--", "false")
    until(lambda: worker.out_path.read_bytes().count(b"\n") >= 3)
    gearmand.kill()
    worker.terminate()
    worker.wait(30)
    gearmand.start()
    event = gm(*EMPTY, "q", "--", "cat").records[0]
    assert event["event"] == "done" and event["attempts"] >= 3


def test_exit_statuses_are_verdicts(gm, gearmand):
    gm(SUBMIT, "v", input=b"65\n75\n4\n5\n0\n")
    result = work_until_empty(gm, "v", "sh", "-c", "exit $(cat)", options=["--exit=4=drop,5=done"])
    last = {event["exit"]: event for event in result.records}
    assert (last[65]["event"], last[65]["attempts"], last[65]["reason"]) == ("dead", 1, "rejected")
    assert (last[75]["event"], last[75]["attempts"], last[75]["reason"]) == ("dead", 3, "error")
    assert last[4]["event"] == "drop" and last[5]["event"] == last[0]["event"] == "done"
    assert len(dead(gm)) == 2


def test_timeout_ends_the_whole_process_group(gm, gearmand, tmp_path):
    gm(SUBMIT, "t", input=b"x\n")
    script = f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/pid; wait; sleep 1000"
    event = work_until_empty(gm, "t", "sh", "-c", script, options=["-t0.2", "--grace=0.2", "--tries=1"]).records[0]
    assert (event["reason"], event["error"], event["event"]) == ("timeout", "timed out after 0.2 s", "dead")
    pid = int((tmp_path / "pid").read_text())
    until(lambda: ended(pid))


def test_crash_tells_the_signal(gm, gearmand):
    gm(SUBMIT, "c", input=b"x\n")
    work_until_empty(gm, "c", "sh", "-c", "kill -SEGV $$", options=["--tries=1"])
    record, = dead(gm)
    assert (record["reason"], record["signal"], record["exit"], record["error"]) == (
        "crash", "SIGSEGV", None, "killed by SIGSEGV")


def test_unknown_unfit_or_missing_command(gm, gearmand, tmp_path):
    gm(SUBMIT, "m", input=b"x\n")
    assert b"command not found" in gm(*EMPTY, "m", "--", "no-such-command", status=127).err
    assert b"-j: options stand before FUNCTION" in gm(*EMPTY, "m", "-j", "4", "--", "cat", status=2).err
    (tmp_path / "plain").write_text("not a program")
    assert b"permission denied" in gm(*EMPTY, "m", "--", tmp_path / "plain", status=126).err
    assert gearmand.waiting(b"m") == 1


def test_no_server(gm):
    result = gm(*EMPTY, "f", "--", "cat", status=111)
    assert result.err.count(b"\n") == 1 and b"127.0.0.1:1" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("make", ["text", "newer", "foreign", "missing folder", "read-only"])
def test_quarantine_file_that_cannot_be_used(gm, gearmand, tmp_path, make):
    path = tmp_path / "q.db"
    if make == "text":
        path.write_text("this is no database\n" * 100)
    elif make == "missing folder":
        path = tmp_path / "nowhere" / "q.db"
    else:
        gm("gm-work", "--until-empty", f"--quarantine={path}", "f", "--", "cat")
        if make == "read-only":
            if os.getuid() == 0:
                path = tmp_path / "folder"
                path.mkdir()   # root may write everything: a directory is what it cannot
            else:
                path.chmod(0o400)
        else:
            with gm.database(path) as db:
                db.execute("PRAGMA user_version=99" if make == "newer" else "PRAGMA application_id=7")
    gm(SUBMIT, "f", input=b"x\n")
    result = gm(*EMPTY, f"--quarantine={path}", "f", "--", "cat", status=111)
    assert result.err.count(b"\n") == 1 and os.fsencode(path) in result.err
    assert gearmand.waiting(b"f") == 1


@pytest.mark.slow
def test_term_finishes_the_job_in_hand(gm, gearmand, tmp_path):
    gm(SUBMIT, "slow", input=b"x\n")
    worker = gm.start("gm-work", "slow", "--", "sh", "-c", f"echo > {tmp_path}/begun; sleep 1")
    until((tmp_path / "begun").exists)
    worker.terminate()
    assert worker.wait(20) == 0
    assert json.loads(worker.out_path.read_bytes())["event"] == "done"


def test_second_term_hands_the_job_back_uncounted(gm, gearmand, tmp_path):
    gm(SUBMIT, "slow", input=b"x\n")
    worker = gm.start("gm-work", "slow", "--", "sh", "-c", f"echo >> {tmp_path}/begun; sleep 1000")
    until((tmp_path / "begun").exists)
    worker.terminate()
    until(lambda: gm("gm-status", "--workers").out.count(b'"mark":"released"'))
    worker.terminate()
    assert worker.wait(20) == 0
    assert json.loads(worker.out_path.read_bytes())["event"] == "release"
    event, = gm(*EMPTY, "slow", "--", "cat").records
    assert (event["event"], event["attempts"]) == ("done", 1)


@pytest.mark.slow
def test_workers_are_replaced_by_age_and_by_count(gm, gearmand):
    gm(SUBMIT, "w", input=b"\n".join(b"%d" % n for n in range(1, 13)) + b"\n")
    worker = gm.start("gm-work", "--max-jobs=4", "w", "--", "cat")
    until(lambda: worker.out_path.read_bytes().count(b"\n") == 12)
    assert len({json.loads(line)["worker"] for line in worker.out_path.read_bytes().splitlines()}) == 3
    aged = gm.start("gm-work", "--max-age=0.1", "--grace=1", "a", "--", "cat")
    pids = set()

    def three():
        gm(SUBMIT, "-q", "a", input=b"x\n")
        pids.update(json.loads(line)["worker"] for line in aged.out_path.read_bytes().splitlines())
        return len(pids) >= 3
    until(three)


def test_hup_replaces_the_workers(gm, gearmand):
    worker = gm.start("gm-work", "h", "--", "cat")

    def events():
        return [json.loads(line)["worker"] for line in worker.out_path.read_bytes().splitlines()]
    gm(SUBMIT, "h", input=b"x\n")
    until(lambda: len(events()) == 1)
    worker.send_signal(signal.SIGHUP)
    until(lambda: gm(SUBMIT, "-q", "h", input=b"x\n") and len(set(events())) == 2)


def test_waiting_client_is_answered_and_its_job_not_kept(gm, gearmand):
    gm.start("gm-work", "w", "--", "sh", "-c", "echo broken >&2; exit 3")
    result = gm(SUBMIT, "--wait", "w", input=b"x\n", status=1)
    assert result.records[0]["error"] == "broken"
    assert dead(gm) == dead(gm, "--delayed") == []


def test_foreground_says_it_for_a_whole_function(gm, gearmand):
    gm(SUBMIT, "w", input=b"x\n")
    event, = gm(*NOW, "--foreground", "w", "--", "false").records
    assert event["event"] == "drop" and dead(gm) == []


def test_a_foreign_unique_says_nothing_about_a_waiting_client(gm, gearmand):
    """gearmang itself once marked waited-for jobs by `~w` at the end of their unique."""
    gm("gearman", "-h", "127.0.0.1", "-p", gearmand.port, "-b", "-f", "w", "-u", "theirs~w", "payload")
    found = work_until_empty(gm, "w", "false", options=["--tries=2"]).records
    assert [(event["event"], event["unique"]) for event in found] == [("retry", "theirs~w"), ("dead", "theirs~w")]
    assert [(record["unique"], record["data"]) for record in dead(gm)] == [("theirs~w", "payload")]


def test_malformed_envelope_is_payload(gm, gearmand):
    payload = b'%gm1 {"attempts":-1}\nrest'
    gm(SUBMIT, "e", "-", input=payload)
    work_until_empty(gm, "e", "false", options=["--tries=1"])
    assert dead(gm)[0]["data"] == payload.decode()


def test_payload_that_looks_like_an_envelope_comes_through(gm, gearmand, tmp_path):
    payload = b'%gm1 {"attempts":7}\nrest'
    gm(SUBMIT, "e", "-", input=payload)
    event, = gm(*EMPTY, "e", "--", "sh", "-c", f"cat > {tmp_path}/got").records
    assert event["attempts"] == 1 and (tmp_path / "got").read_bytes() == payload


def test_options_after_the_function_belong_to_the_command(gm, gearmand):
    gm(SUBMIT, "o", input=b"x\n")
    event, = gm(*EMPTY, "o", "sh", "-c", "echo $0 >&3", "--quiet").records
    assert event["event"] == "done"


@pytest.mark.slow
def test_reader_of_events_goes_away(gm, gearmand):
    gm(SUBMIT, "-q", "r", input=b"x\n" * 1000)
    result = gm("bash", "-c", "set -o pipefail; gm-work --until-empty r -- true | head -1", status=1)
    assert b"reader" in result.err and result.out.count(b"\n") == 1
    until(lambda: gearmand.status()[b"r"][1] == 0, what="what it had in hand is back")
    assert 0 < gearmand.waiting(b"r") < 1000


def test_hostile_errors_do_not_reach_the_terminal_raw(gm, gearmand):
    gm(SUBMIT, "x", input=b"x\n")
    result = work_until_empty(gm, "x", "sh", "-c", "printf 'a\\033[31mred\\007\\n' >&2; exit 1", options=["--tries=1"])
    assert b"\033" not in result.err and b"\007" not in result.err


@pytest.mark.slow
def test_the_same_unique_payload_and_handle_in_two_functions_are_two_jobs(gm, new_gearmand):
    """Handles restart with the server."""
    server = new_gearmand(None)
    gm.env["GM_SERVERS"] = server.server
    for function in "one", "two":
        gm(SUBMIT, "--unique=daily", function, input=b"x\n")
        event, = work_until_empty(gm, function, "false", options=["--tries=1"]).records
        server.kill()
        server.start()
    assert [(record["function"], record["handle"]) for record in dead(gm)] == [
        ("one", event["handle"]), ("two", event["handle"])]
