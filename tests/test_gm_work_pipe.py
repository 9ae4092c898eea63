"""gm-work --pipe against a real gearmand: one COMMAND, many jobs, and who takes the blame."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import struct
import sys
import time

import pytest
from conftest import ROOT, until
from helpers import children, cpu_seconds

pytestmark = pytest.mark.slow

PIPE = ("gm-work", "--pipe", "--until-empty", "--delay=0")

# A COMMAND of the tests: `echo` answers with the payload, and does what special payloads say.
COMMAND = '''
import json, os, signal, sys, time
with open("starts", "a") as file:
    file.write("x\\n")
for line in sys.stdin:
    job = json.loads(line)
    data = job.get("data", "")
    word, _, rest = data.partition(" ")
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "exit":
        sys.stderr.write("went wrong\\n")
        sys.exit(int(rest))
    if word == "kill-worker":
        os.kill(os.getppid(), signal.SIGKILL)
    if word in ("hang", "wait"):
        with open("hanging.new", "w") as file:
            file.write(str(os.getppid()))
        os.rename("hanging.new", "hanging")
        while word == "hang" or not os.path.exists("go"):
            time.sleep(0.02)
    answer = json.loads(rest) if word == "say" else {"ok": True, "result": data}
    if word == "raw":
        print(rest, flush=True)
    elif word == "fail":
        sys.stderr.write(rest + "\\n")
        sys.stderr.flush()
        print(json.dumps({"ok": False}), flush=True)
    elif "data_b64" in job:
        print(json.dumps({"ok": True, "result_b64": job["data_b64"]}), flush=True)
    else:
        print(json.dumps(answer), flush=True)
open("cleaned-up", "w").close()
'''


@pytest.fixture
def command(tmp_path):
    """(python3, script): the COMMAND of these tests, which runs in tmp_path."""
    path = tmp_path / "command.py"
    path.write_text(COMMAND)
    return sys.executable, path


def submit(gm, function, *payloads):
    gm("gm-submit", "-q", "-0", function, input=b"".join(payload.encode() + b"\0" for payload in payloads))


def dead(gm, *options):
    return gm("gm-dead", *options).records


def starts(tmp_path):
    return (tmp_path / "starts").read_text().count("x")


def events(worker):
    return [json.loads(line) for line in worker.out_path.read_bytes().splitlines()]


def by_event(records):
    found = {}
    for record in records:
        found.setdefault(record["event"], []).append(record)
    return found


class Client:
    """A waiting client: submits a job in the foreground, and reads what a server tells of it."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.file = self.socket.makefile("rb")

    def run(self, function, data):
        """(packet type, fields after the handle) of each packet up to the end of the job."""
        body = b"\0".join((function, b"", data))
        self.socket.sendall(b"\0REQ" + struct.pack(">II", 7, len(body)) + body)
        while True:
            _, kind, length = struct.unpack(">4sII", self.file.read(12))
            fields = self.file.read(length).split(b"\0")
            if kind != 8:   # JOB_CREATED
                yield kind, fields[1:]
            if kind in (13, 14):   # WORK_COMPLETE, WORK_FAIL
                return


def test_answers_are_results_and_one_command_does_all_jobs(gm, gearmand, command, tmp_path):
    submit(gm, "up", *(str(n) for n in range(1000)))
    records = gm(*PIPE, "up", "--", *command).records
    assert {r["event"] for r in records} == {"done"} and len({r["unique"] for r in records}) == 1000
    assert {r["attempts"] for r in records} == {1} and starts(tmp_path) == 1
    assert (tmp_path / "cleaned-up").exists()
    until(lambda: gearmand.status()[b"up"][0] == 0)


def test_event_of_an_answer(gm, gearmand, command):
    gm("gm-submit", "--unique=one", "up",
       input=b'say {"ok":true,"extra":{"width":640,"n":1}}\n')
    event, = gm(*PIPE, "up", "--", *command).records
    assert event["event"] == "done" and event["unique"] == "one" and event["extra"] == {"width": 640, "n": 1}
    assert event["exit"] is event["signal"] is event["reason"] is event["error"] is None
    assert set(event) == {"event", "time", "function", "unique", "handle", "attempts", "duration", "exit", "signal",
                          "reason", "error", "worker", "host", "server", "extra"}


def test_payload_and_result_are_byte_exact(gm, gearmand, command):
    worker = gm.start("gm-work", "--pipe", "up", "--", *command)
    client = Client(gearmand.port)
    for payload in (bytes(range(256)), "é✓\r\n\0 ".encode(), b"", os.urandom(1 << 20) * 16):
        assert list(client.run(b"up", payload)) == [(13, payload.split(b"\0"))]
    worker.terminate()
    assert worker.wait(20) == 0


def test_progress_and_partial_results_reach_whoever_waits(gm, gearmand, tmp_path):
    (tmp_path / "c").write_text('''
for line in __import__("sys").stdin:
    for answer in ('{"progress":[1,4]}', '{"partial":"a"}', '{"partial_b64":"/w=="}', '{"extra":{"x":1}}', '{"ok":true}'):
        print(answer, flush=True)
''')
    worker = gm.start("gm-work", "--pipe", "p", "--", sys.executable, "c")
    packets = list(Client(gearmand.port).run(b"p", b"x"))
    assert packets == [(12, [b"1", b"4"]), (28, [b"a"]), (28, [b"\xff"]), (13, [b""])]
    assert until(lambda: events(worker))[0]["extra"] == {"x": 1}


def test_the_record_that_command_is_given(gm, gearmand, tmp_path):
    submit(gm, "r", "x")
    gm("gm-submit", "-q", input=b'{"function":"r","unique":"u","priority":"low","data_b64":"/w=="}\n')
    gm(*PIPE, "--tries=2", "r", "--", "sh", "-c",
       "while read -r line; do echo \"$line\" >>got; echo '{\"ok\":false}'; done")
    got = [json.loads(line) for line in (tmp_path / "got").read_bytes().splitlines()]
    assert sorted(record["attempts"] for record in got) == [1, 1, 2, 2]
    assert set(got[0]) == {"function", "unique", "handle", "attempts", "priority", "data"}
    binary = [record for record in got if record["unique"] == "u"]
    assert len(binary) == 2 and {record["data_b64"] for record in binary} == {"/w=="}


def test_verdicts(gm, gearmand, command):
    submit(gm, "v", 'say {"ok":false,"error":"no use","verdict":"dead"}', 'say {"ok":false,"error":"gone","verdict":"drop"}',
           'say {"ok":false,"error":"again","verdict":"retry"}', 'say {"ok":false,"error":"one\\ntwo"}', "fail why")
    found = by_event(gm(*PIPE, "v", "--", *command).records)
    assert [(r["error"], r["reason"]) for r in found["drop"]] == [("gone", "rejected")]
    assert sorted((r["error"], r["reason"], r["attempts"]) for r in found["dead"]) == [
        ("again", "error", 3), ("no use", "rejected", 1), ("two", "error", 3), ("why", "error", 3)]
    assert sorted((r["error"], r["stderr"]) for r in dead(gm)) == [
        ("again", ""), ("no use", ""), ("two", "one\ntwo"), ("why", "why")]


def test_a_duration_is_the_job_s_own_also_of_answers_that_are_read_at_once(gm, gearmand, command, tmp_path):
    (tmp_path / "naps.py").write_text("import time\ndef nap(job): time.sleep(0.004)\ndef fail(job): nap(job); 1 / 0\n")
    submit(gm, "n", *map(str, range(60)))
    done = gm(*PIPE, "n", "--", "gm-python", "naps:nap").records
    assert len(done) == 60 and all(0.004 <= record["duration"] < 1 for record in done)
    submit(gm, "n", *map(str, range(20)))
    failed = gm(*PIPE, "--tries=1", "--brake=0", "n", "--", "gm-python", "naps:fail").records
    assert len(failed) == 20 and all(0.004 <= record["duration"] < 1 for record in failed)
    submit(gm, "n", *(f'say {{"ok":true,"duration":{told}}}' for told in ("12.5", "-1", "true", '"x"')))
    told = sorted(record["duration"] for record in gm(*PIPE, "n", "--", *command).records)
    assert told[-1] == 12.5 and all(0 <= duration < 10 for duration in told[:-1])


def test_delay_of_an_answer(gm, gearmand, command):
    submit(gm, "d", 'say {"ok":false,"error":"later","verdict":"retry","delay":1000}')
    gm("gm-work", "--pipe", "--until-empty", "d", "--", *command)
    from datetime import datetime
    record, = dead(gm, "--delayed")
    due, failed = (datetime.fromisoformat(record[name].replace("Z", "+00:00")) for name in ("due", "last_failed"))
    assert 995 <= (due - failed).total_seconds() <= 1005


@pytest.mark.parametrize("end, expected", [
    ("die", ("crash", "SIGKILL", None, "killed by SIGKILL")), ("exit 3", ("error", None, 3, "went wrong")),
    ("exit 0", ("error", None, 0, "it ended without an answer: went wrong"))], ids=["signal", "status", "status-0"])
def test_death_is_blamed_on_the_job_in_hand_alone(gm, gearmand, command, tmp_path, end, expected):
    submit(gm, "k", *(f"before {n}" for n in range(300)), end, *(f"after {n}" for n in range(100)))
    found = by_event(gm(*PIPE, "k", "--", *command).records)
    assert len(found["done"]) == 400 and {r["attempts"] for r in found["done"]} == {1}
    assert [r["attempts"] for r in found["retry"]] == [1, 2] and set(found) == {"done", "retry", "dead"}
    record, = dead(gm)
    assert (record["reason"], record["signal"], record["exit"], record["error"]) == expected
    assert record["data"] == end and record["attempts"] == 3
    assert starts(tmp_path) in (3, 4)   # none where it was the last


def test_hang_is_blamed_on_the_job_in_hand_alone(gm, gearmand, command, tmp_path):
    submit(gm, "h", *(f"before {n}" for n in range(300)), "hang", *(f"after {n}" for n in range(100)))
    found = by_event(gm(*PIPE, "-t0.3", "--grace=0.2", "--tries=2", "h", "--", *command).records)
    assert len(found["done"]) == 400 and {r["attempts"] for r in found["done"]} == {1}
    record, = dead(gm)
    assert (record["reason"], record["error"], record["data"]) == ("timeout", "timed out after 0.3 s", "hang")


def test_a_slow_start_is_not_taken_out_of_the_time_of_a_job(gm, gearmand, tmp_path):
    submit(gm, "s", "1", "2")
    script = "sleep 0.7; while read -r line; do echo '{\"ok\":true}'; done"
    assert {r["event"] for r in gm(*PIPE, "-t0.3", "s", "--", "sh", "-c", script).records} == {"done"}


def test_kill_9_of_the_worker_counts_an_attempt_for_the_job_in_hand_alone(gm, gearmand, command, tmp_path):
    submit(gm, "w", *(f"before {n}" for n in range(300)), "wait", *(f"after {n}" for n in range(300)))
    worker = gm.start("gm-work", "--pipe", "w", "--", *command)
    until((tmp_path / "hanging").exists)
    until(lambda: len(events(worker)) == 300)
    assert gearmand.status()[b"w"][1] > 1   # others are fetched
    os.kill(events(worker)[0]["worker"], signal.SIGKILL)
    (tmp_path / "go").touch()
    until(lambda: len(by_event(events(worker)).get("done", ())) == 601)
    attempts = {r["attempts"]: r for r in by_event(events(worker))["done"]}
    assert sorted(r["attempts"] for r in by_event(events(worker))["done"]) == [1] * 600 + [2]
    lost, = by_event(events(worker))["retry"]
    assert (lost["reason"], lost["attempts"], lost["unique"]) == ("lost", 1, attempts[2]["unique"])


def test_kill_9_of_the_worker_while_it_settles_a_failure_counts_that_attempt(gm, gearmand, tmp_path):
    """A job that fills the memory with what it says brings its worker down at just that point."""
    script = ("while read -r job; do echo x >>begun; while ! [ -e go ]; do sleep 0.05; done; "
              "echo '{\"ok\":false,\"error\":\"no\"}'; done")
    submit(gm, "w", "x")
    worker = gm.start("gm-work", "--pipe", "--tries=2", "w", "--", "sh", "-c", script)
    until((tmp_path / "begun").exists)
    with gm.database() as db:   # settling takes for ever
        db.execute("CREATE TRIGGER hang BEFORE INSERT ON job BEGIN SELECT (WITH RECURSIVE n(x) AS "
                   "(SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n); END")
    (tmp_path / "go").touch()
    until(lambda: locked(gm), what="it is in the midst of it")
    (tmp_path / "go").unlink()
    os.kill(workers_of(worker)[0], signal.SIGKILL)
    with gm.database(timeout=20) as db:
        db.execute("DROP TRIGGER hang")
    (tmp_path / "go").touch()
    until(lambda: by_event(events(worker)).get("dead"), timeout=40)
    assert dead(gm)[0]["attempts"] == 2 and (tmp_path / "begun").read_text().count("x") == 2


def locked(gm):
    """Whether a transaction holds the quarantine file's write lock."""
    try:
        with gm.database(timeout=0, isolation_level=None) as db:
            db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    return False


def workers_of(worker):
    """The pids of the children of a gm-work that run jobs: those that have children."""
    return [pid for pid in children(worker.pid) if children(pid)]


def test_a_job_that_kills_its_worker_is_quarantined_and_the_others_are_done(gm, gearmand, command):
    submit(gm, "w", *(f"before {n}" for n in range(100)), "kill-worker", *(f"after {n}" for n in range(50)))
    worker = gm.start("gm-work", "--pipe", "w", "--", *command)
    until(lambda: by_event(events(worker)).get("dead"), timeout=40)
    until(lambda: len(by_event(events(worker)).get("done", ())) >= 150)
    record, = dead(gm)
    assert (record["data"], record["reason"], record["attempts"]) == ("kill-worker", "lost", 3)
    until(lambda: gearmand.status()[b"w"][0] == 0)


def test_term_finishes_the_job_in_hand_and_lets_command_clean_up(gm, gearmand, command, tmp_path):
    submit(gm, "t", *(str(n) for n in range(300)), "wait", "last", "last")
    worker = gm.start("gm-work", "--pipe", "t", "--", *command)
    until((tmp_path / "hanging").exists)
    worker.terminate()
    until(lambda: b'"mark":"released"' in gm("gm-status", "--workers").out)
    (tmp_path / "go").touch()
    assert worker.wait(20) == 0
    done = len(events(worker))
    assert done >= 301 and {r["event"] for r in events(worker)} == {"done"} and (tmp_path / "cleaned-up").exists()
    assert gearmand.waiting(b"t") == 303 - done


def test_second_term_hands_all_back_uncounted(gm, gearmand, command, tmp_path):
    submit(gm, "t", "hang", "1", "2")
    worker = gm.start("gm-work", "--pipe", "t", "--", *command)
    until((tmp_path / "hanging").exists)
    worker.terminate()
    until(lambda: b'"mark":"released"' in gm("gm-status", "--workers").out)
    worker.terminate()
    assert worker.wait(20) == 0
    assert by_event(events(worker)).keys() == {"release"}
    records = gm("gm-work", "--until-empty", "t", "--", "cat").records
    assert [(r["event"], r["attempts"]) for r in records] == [("done", 1)] * 3


HUGE = '{"ok":true,"result":"' + "x" * 100


@pytest.mark.parametrize("line, error", [
    ("no json", "not JSON"), ("[1]", "not a JSON object"), ("{}", "none of ok, progress"), ('{"ok":1}', "neither true"),
    ('{"ok":true,"result":7}', "result is not a string"), ('{"ok":true,"result_b64":"é"}', "result_b64"),
    ('{"ok":true,"result":"\\ud800"}', "surrogate"), ('{"ok":false,"verdict":"bury"}', "verdict"),
    ('{"ok":false,"verdict":[]}', "verdict"),
    ('{"ok":false,"delay":-1}', "delay"), ('{"ok":false,"delay":NaN}', "not JSON"), ('{"progress":[1]}', "progress"),
    ('{"progress":[true,1]}', "progress"), ('{"extra":[],"ok":true}', "extra"), ('{"ok":true,"handle":"H:x:9"}', "another job"),
    ("[" * 100000, "not JSON"), ('{"ok":' + "9" * 5000 + "}", "answer")],
    ids=lambda value: value[:24])
def test_hostile_lines_fail_the_job_in_hand_and_command_is_started_again(gm, gearmand, command, tmp_path, line, error):
    submit(gm, "x", "1", "raw " + line, "2")
    found = by_event(gm(*PIPE, "--tries=1", "x", "--", *command).records)
    assert {r["attempts"] for r in found["done"]} == {1} and len(found["done"]) == 2
    record, = dead(gm)
    assert error in record["error"] and record["data"] == "raw " + line and starts(tmp_path) == 2


def test_deaf_and_mute_commands(gm, gearmand, tmp_path):
    submit(gm, "x", "1")
    for script, error in (("read -r line; exec >&-; sleep 1000", "it closed its output"),
                          ("read -r line; exec <&-; sleep 1000", "it closed its input")):
        gm(*PIPE, "--tries=1", "--grace=0.2", "x", "--", "sh", "-c", script)
        record, = dead(gm)
        assert record["error"] == error
        gm("gm-requeue", record["id"])


def test_command_that_speaks_without_a_job_is_no_job_s_fault(gm, gearmand, tmp_path):
    worker = gm.start("gm-work", "--pipe", "x", "--", "sh", "-c",
                      "[ -e good ] || echo hello; while read -r line; do echo '{\"ok\":true}'; done")
    until(lambda: b"hello" in worker.err_path.read_bytes())
    submit(gm, "x", "1")
    (tmp_path / "good").touch()
    until(lambda: by_event(events(worker)).get("done"))
    assert by_event(events(worker))["done"][0]["attempts"] == 1 and dead(gm) == []


def test_output_over_the_limit_fails_the_job(gm, gearmand, tmp_path):
    (tmp_path / "c").write_text('''
import os, sys
line = sys.stdin.readline()
os.write(1, b'{"ok":true,"result":"')
for _ in range(100):
    sys.stdout.write("x" * (1 << 20))
sys.stdout.flush()
sys.stdin.readline()
''')
    submit(gm, "x", "1")
    gm(*PIPE, "--tries=1", "x", "--", sys.executable, "c")
    assert dead(gm)[0]["error"] == "output over 64 MiB"


def test_command_that_cannot_start_is_the_worker_s_fault(gm, gearmand, tmp_path):
    submit(gm, "x", "1", "2")
    script = "[ -e good ] || { echo 'no database' >&2; exit 1; }; while read -r line; do echo '{\"ok\":true}'; done"
    worker = gm.start("gm-work", "--pipe", "--tries=1", "x", "--", "sh", "-c", script)
    until(lambda: b"ended before it read a job: no database" in worker.err_path.read_bytes(), 60)
    (tmp_path / "good").touch()
    until(lambda: len(by_event(events(worker)).get("done", ())) == 2, 60)   # its pause grows
    assert {r["attempts"] for r in by_event(events(worker))["done"]} == {1} and dead(gm) == []


def test_brake_bounds_a_row_of_failures(gm, gearmand, tmp_path):
    """However many jobs were fetched in good times: after five failures in a row the others are held."""
    (tmp_path / "c").write_text('''
import os, sys
for line in sys.stdin:
    print('{"ok":false,"error":"down"}' if "fail" in line else '{"ok":true}', flush=True)
''')
    submit(gm, "b", *(f"good {n}" for n in range(500)), *(f"fail {n}" for n in range(40)))
    worker = gm.start("gm-work", "--pipe", "--tries=9", "--delay=1h", "b", "--", sys.executable, "c")
    until(lambda: by_event(events(worker)).get("hold"))
    until(lambda: gearmand.status()[b"b"][1] <= 2, what="the others went back")
    until(lambda: gearmand.status()[b"b"][0] == 0)
    found = by_event(events(worker))
    assert len(found["retry"]) == 5 and len(found["hold"]) == 35


def test_waiting_clients_are_answered(gm, gearmand, command):
    gm.start("gm-work", "--pipe", "w", "--", *command)
    result = gm("gm-submit", "--wait", "w", input=b"fail broken\nx\n", status=1)
    assert {(r["line"], r.get("error"), r.get("result")) for r in result.records} == {(1, "broken", None), (2, None, "x")}
    assert dead(gm) == dead(gm, "--delayed") == []


def test_via_sends_the_dead_to_another_queue(gm, gearmand, command):
    submit(gm, "v", "1", "die", "2")
    gm(*PIPE, "--tries=1", "--via=morgue", "v", "--", *command)
    assert dead(gm) == [] and gearmand.waiting(b"morgue") == 1
    gm("gm-collect", "--until-empty", "-q", "morgue")
    assert [r["data"] for r in dead(gm)] == ["die"]


def test_max_jobs_is_kept_to_the_job(gm, gearmand, command):
    submit(gm, "m", *(str(n) for n in range(100)))
    worker = gm.start("gm-work", "--pipe", "--max-jobs=40", "m", "--", *command)
    until(lambda: len(events(worker)) == 100)
    workers = [r["worker"] for r in events(worker)]
    assert sorted(workers.count(pid) for pid in set(workers)) == [20, 40, 40]


def test_an_old_worker_waits_for_its_job_without_spinning(gm, gearmand, command, tmp_path):
    submit(gm, "o", "wait", "1")
    worker = gm.start("gm-work", "--pipe", "--max-age=0.5", "o", "--", *command)
    until((tmp_path / "hanging").exists)
    child = int((tmp_path / "hanging").read_text())   # its worker
    before, began = cpu_seconds(child), time.monotonic()
    until(lambda: time.monotonic() - began > 1.5)
    assert cpu_seconds(child) - before < 0.5
    (tmp_path / "go").touch()
    until(lambda: len(events(worker)) == 2)
    assert len({r["worker"] for r in events(worker)}) == 2


def test_hup_replaces_worker_and_command(gm, gearmand, command, tmp_path):
    worker = gm.start("gm-work", "--pipe", "h", "--", *command)
    submit(gm, "h", "1")
    until(lambda: len(events(worker)) == 1)
    worker.send_signal(signal.SIGHUP)
    until((tmp_path / "cleaned-up").exists)
    submit(gm, "h", "2")
    until(lambda: len({r["worker"] for r in events(worker)}) == 2)
    assert starts(tmp_path) == 2


def test_reap_ends_the_job_in_hand_alone_and_status_shows_it(gm, gearmand, command, tmp_path):
    submit(gm, "r", *(f"before {n}" for n in range(300)), "hang", *(f"after {n}" for n in range(100)))
    worker = gm.start("gm-work", "--pipe", "--tries=1", "--grace=1", "r", "--", *command)
    until((tmp_path / "hanging").exists)
    until(lambda: len(events(worker)) == 300)
    shown = [r for r in gm("gm-status", "--workers").records if r["source"] == "file" and r.get("handle")]
    assert len(shown) == 1 and shown[0]["job_age"] < 60
    until(lambda: len(gm("gm-reap", "--job-older-than=0.1", status=None).records) == 1)
    gm("gm-reap", "--job-older-than=0.1", "--kill", status=None)
    until(lambda: len(by_event(events(worker)).get("done", ())) == 400)
    record, = dead(gm)
    assert (record["reason"], record["data"], record["attempts"]) == ("hung", "hang", 1)


def test_several_workers_share_a_queue(gm, gearmand, command, tmp_path):
    submit(gm, "s", *(str(n) for n in range(600)))
    records = gm(*PIPE, "-j3", "s", "--", *command).records
    assert len({r["unique"] for r in records}) == 600 == len(records) and starts(tmp_path) == 3


def test_server_that_is_lost_and_comes_back(gm, gearmand, command):
    submit(gm, "l", *(str(n) for n in range(200)))
    worker = gm.start("gm-work", "--pipe", "l", "--", *command)
    until(lambda: events(worker))
    gearmand.kill()
    gearmand.start()
    until(lambda: len({r["unique"] for r in events(worker)}) == 200 and gearmand.status()[b"l"][0] == 0)
    assert set(by_event(events(worker))) == {"done"}


@pytest.mark.parametrize("name", ["upper.pl", "upper.js"])
def test_examples_in_other_languages(gm, gearmand, name):
    submit(gm, "upper", *(f"grün {n}" for n in range(20)))
    gm("gm-submit", "-q", input=b'{"function":"upper","data_b64":"/w=="}\n')
    worker = gm.start("gm-work", "--pipe", "upper", "--", ROOT / "examples/pipe" / name)
    assert gm("gm-submit", "--wait", "upper", input="grün\n".encode()).records[0]["result"] == "GRÜN"
    until(lambda: by_event(events(worker)).get("dead"))
    assert dead(gm)[0]["error"] == "no text" and len(by_event(events(worker))["done"]) == 21


def test_example_in_shell_with_jq(gm, gearmand, tmp_path):
    (tmp_path / "a file").write_bytes(b"12345")
    gm.start("gm-work", "--pipe", "size", "--", ROOT / "examples/pipe/size.sh")
    assert gm("gm-submit", "--wait", "size", input=b"a file\n").records[0]["result"] == "5"
    submit(gm, "size", "nothing")
    assert "nothing" in until(lambda: dead(gm))[0]["error"]


def test_jq_is_a_worker(gm, gearmand):
    gm.start("gm-work", "--pipe", "up", "--", "jq", "--unbuffered", "-c", "{ok:true,result:(.data|ascii_upcase)}")
    assert gm("gm-submit", "--wait", "up", input=b"hello\n").records[0]["result"] == "HELLO"


def test_until_empty_ends_where_the_command_never_reads_a_job(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"1\n2\n")
    result = gm("gm-work", "--pipe", "--until-empty", "f", "--", "gm-python", "nosuch:handler", status=126)
    assert result.err.splitlines()[-1].endswith(
        b"No module named 'nosuch': for the third time: ending, the jobs stay in the queue")
    assert {event["event"] for event in result.records} == {"release"}
    until(lambda: gearmand.waiting(b"f") == 2)
    assert len(gm("gm-work", "--until-empty", "f", "--", "cat").records) == 2
