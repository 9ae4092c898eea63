"""gm-submit against a real gearmand: what it accepts, what it refuses, and what becomes of a server that goes away."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios

import pytest
from conftest import NO_SERVER, ROOT, until

SUBMIT = "gm-submit"


def queued(gm, function, *options):
    """What is in the queue, as (unique, payload) in the order in which a worker gets it."""
    script = 'printf "{\\"got\\":\\"%s\\"}" "$(base64 -w0)" >&3'
    events = gm("gm-work", "--until-empty", *options, function, "--", "sh", "-c", script).records
    from base64 import b64decode
    return [(event["unique"], b64decode(event["extra"]["got"])) for event in events]


def test_a_line_is_a_payload_verbatim(gm, gearmand):
    lines = [b"  spaces ", b"\ttab\r", b"\377\376", b"{\"json\":1}", b"h\303\251llo \342\234\223", b"no end"]
    result = gm(SUBMIT, "f", input=b"\n".join(lines))
    assert [payload for _, payload in queued(gm, "f")] == lines
    assert [set(record) for record in result.records] == [{"line", "function", "unique", "handle", "server"}] * 6
    assert [record["line"] for record in result.records] == [1, 2, 3, 4, 5, 6]
    assert len({record["unique"] for record in result.records}) == 6 and result.records[0]["server"] == gearmand.server


def test_null_ends_a_payload(gm, gearmand):
    gm(SUBMIT, "-0", "f", input=b"a\nb\0c\0")
    assert [payload for _, payload in queued(gm, "f")] == [b"a\nb", b"c"]


def test_a_file_is_one_payload_and_dash_is_stdin(gm, gearmand, tmp_path):
    (tmp_path / "a").write_bytes(b"one\ntwo\n\0")
    gm(SUBMIT, "f", "a", "-", input=b"three\nfour\n")
    assert [payload for _, payload in queued(gm, "f")] == [b"one\ntwo\n\0", b"three\nfour\n"]


def test_a_file_that_cannot_be_read_is_reported_and_the_others_submitted(gm, gearmand, tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    result = gm(SUBMIT, "f", "gone", ".", "a", status=1)
    assert result.err == b"gm-submit: gone: cannot read: no such file or directory\n" \
                         b"gm-submit: .: cannot read: is a directory\n"
    assert [payload for _, payload in queued(gm, "f")] == [b"a"]


def test_records_give_function_unique_priority_and_data(gm, gearmand):
    records = [{"function": "f", "data": "low", "priority": "low"}, {"function": "f", "data": "é", "unique": "mine"},
               {"function": "f", "data_b64": "/wA=", "priority": "high", "unique_b64": "/w==", "other": [1]},
               {"function": "g", "data": "x", "id": None}]
    result = gm(SUBMIT, input="\n".join(map(json.dumps, records)).encode() + b"\n\n")
    assert [record["function"] for record in result.records] == ["f", "f", "f", "g"]
    assert result.records[1]["unique"] == "mine" and result.records[2]["unique_b64"] == "/w=="
    got = gm("gm-work", "--until-empty", "f", "--", "sh", "-c", "cat >&2; exit 65").records
    assert [(event.get("unique"), event.get("unique_b64")) for event in got][:2] == [(None, "/w=="), ("mine", None)]
    assert [record.get("data") or record["data_b64"] for record in gm("gm-dead").records] == ["/wA=", "é", "low"]


def test_its_own_output_with_data_is_its_input(gm, gearmand):
    """A record of any tool is another's input: what a tool does not know it ignores."""
    record = gm(SUBMIT, "-u", "k", "f", input=b"x\n").records[0]
    gm(SUBMIT, input=json.dumps({**record, "data": "x"}).encode())
    assert gearmand.waiting(b"f") == 1   # the same unique: merged


def test_the_due_of_a_new_job_is_left_to_gm_at(gm, gearmand):
    gm(SUBMIT, input=b'{"function":"f","data":"x","due":"2100-01-01T00:00:00Z"}')
    assert [payload for _, payload in queued(gm, "f")] == [b"x"]


@pytest.mark.slow
@pytest.mark.parametrize("line, says", [
    (b"nonsense", b"stdin:1: not JSON: "), (b"[1]", b"stdin:1: not a JSON object"), (b'{"data":"x"}', b"stdin:1: no function"),
    (b'{"function":"f"}', b"stdin:1: no data"), (b'{"function":"f","data":1}', b"stdin:1: data is not a string"),
    (b'{"function":"f","data":"x","data_b64":"eA=="}', b"stdin:1: both data and data_b64"),
    (b'{"function":"f","data_b64":"!"}', b"stdin:1: data_b64 is not base64"),
    (b'{"function":"f\\u0000","data":"x"}', b"stdin:1: function holds a NUL"),
    (b'{"function":"f\\n","data":"x"}', b"stdin:1: function holds a newline"),
    (b'{"function":"","data":"x"}', b"stdin:1: no function"),
    (b'{"function":"f","data":""}', b"stdin:1: empty payload: "),
    (b'{"function":"f","data":"x","unique":"' + b"u" * 64 + b'"}', b"stdin:1: unique of 64 bytes: 1 to 63"),
    (b'{"function":"f","data":"x","unique":""}', b"stdin:1: unique of 0 bytes: 1 to 63"),
    (b'{"function":"f","data":"x","priority":null}', b"stdin:1: priority is not a string"),
    (b'{"function":"f","data":null}', b"stdin:1: data is not a string"),
    (b'{"function":"f","data":5}', b"stdin:1: data is not a string"),
    (b'{"function":"f","data":"x","unique":null}', b"stdin:1: unique is not a string"),
    (b'{"function":"f","data":"x","priority":"urgent"}', b"stdin:1: priority is not one of high, normal, low"),
    (b'{"function":"f","data":"x","id":17}', b"stdin:1: job 17 is quarantined: use gm-requeue, or delete .id to submit a copy"),
    (b"\xff\xfe", b"stdin:1: not JSON: "), (b"[" * 100000, b"stdin:1: not JSON: "),
    (b'{"function":"f","data":NaN}', b"stdin:1: not JSON: NaN is not a JSON number"),
    (b'{"function":"f","data":"\\ud800"}', b"stdin:1: data holds a lone surrogate")],
    ids=lambda each: each[:40].decode("latin-1"))
def test_a_bad_record_is_reported_skipped_and_remembered(gm, gearmand, line, says):
    result = gm(SUBMIT, input=line + b'\n{"function":"f","data":"good"}\n', status=1)
    assert result.err.startswith(b"gm-submit: " + says) and result.err.count(b"\n") == 1
    assert [record["line"] for record in result.records] == [2] and gearmand.waiting(b"f") == 1


@pytest.mark.slow
@pytest.mark.parametrize("args, input, says", [
    (["f"], b"a\n\nb\n", b"stdin:2: empty payload: "), (["f", "empty"], b"", b"empty: empty payload: "),
    (["f", "-"], b"", b"-: empty payload: ")], ids=str)
def test_an_empty_payload_is_refused(gm, gearmand, tmp_path, args, input, says):
    (tmp_path / "empty").touch()
    result = gm(SUBMIT, *args, input=input, status=1)
    assert result.err.startswith(b"gm-submit: " + says) and result.err.count(b"\n") == 1
    gearmand.kill()
    gearmand.start()


def test_strict_stops_at_the_first_bad_line_and_what_was_accepted_stays(gm, gearmand):
    result = gm(SUBMIT, "--strict", input=b'{"function":"f","data":"1"}\nbad\n{"function":"f","data":"2"}\n', status=1)
    assert [record["line"] for record in result.records] == [1] and gearmand.waiting(b"f") == 1
    assert result.err.count(b"\n") == 1


@pytest.mark.parametrize("args, says", [
    (["-f"], b"no option -f"), (["--uniq=x", "f"], b"no option --uniq: did you mean --unique?"),
    (["--priority=urgent", "f"], b"--priority: 'urgent' is not one of high, normal, low"),
    (["--unique=x"], b"--unique: a record has its own: set .unique"), (["--unique=" + "u" * 64, "f"], b"unique of 64 bytes"),
    (["--unique=x", "--unique-data", "f"], b"--unique and --unique-data: only one of them"),
    (["--unique=x", "f", "a", "b"], b"--unique: names one job, and there are several files"),
    (["a\nb"], b"function holds a newline"), (["f" * 513], b"function of 513 bytes: at most 512"),
    (["-s", "h:0", "f"], b"server list: 'h:0' is not host[:port], [v6]:port or tls://host:port"),
    (["-s"], b"-s: a value is missing"),
    (["--", "-f"], b"FUNCTION: begins with -: '-f'")], ids=str)
def test_misuse_is_one_line_and_status_2(gm, args, says):
    result = gm(SUBMIT, *args, input=b"x\n", status=2)
    assert result.err.startswith(b"gm-submit: " + says) and result.err.endswith(b": see gm-submit --help\n")
    assert result.err.count(b"\n") == 1 and not result.out


def test_a_second_line_under_one_unique_is_a_usage_error(gm, gearmand):
    assert gm(SUBMIT, "--unique=x", "f", input=b"1\n2\n", status=2).err.count(b"\n") == 1
    assert gearmand.waiting(b"f") == 0


def test_uniques_from_data_merge_what_is_queued_twice(gm, gearmand):
    result = gm(SUBMIT, "--unique-data", "f", input=b"a\nb\na\n")
    uniques = [record["unique"] for record in result.records]
    assert uniques[0] == uniques[2] != uniques[1] and gearmand.waiting(b"f") == 2


def test_priority_is_the_order_of_the_queue(gm, gearmand):
    for level in "low", "normal", "high":
        gm(SUBMIT, f"--priority={level}", "f", input=level.encode())
    assert [payload for _, payload in queued(gm, "f")] == [b"high", b"normal", b"low"]


def test_quiet_prints_no_records(gm, gearmand):
    assert gm(SUBMIT, "-q", "f", input=b"x\n").out == b"" and gearmand.waiting(b"f") == 1


def test_empty_input_changes_nothing_and_needs_no_server(gm):
    for args in [], ["f"], ["--wait", "f"]:
        assert gm(SUBMIT, *args).out == b""


def test_a_terminal_on_stdin_is_a_usage_error(gm):
    ours, theirs = pty.openpty()
    result = gm(SUBMIT, "f", input=os.fdopen(theirs, "rb"), status=2)
    os.close(ours)
    assert result.err.count(b"\n") == 1 and b"standard input" in result.err


def test_a_server_that_is_not_there(gm):
    result = gm(SUBMIT, "f", input=b"x\n", status=111)
    assert result.err == f"gm-submit: {NO_SERVER}: cannot connect: connection refused: is gearmand running? " \
                         "gm-server starts one\n".encode()
    assert gm(SUBMIT, "-s", "no.such.host.invalid", "f", input=b"x\n", status=111).err.count(b"\n") == 1


def test_records_are_printed_before_the_tool_waits_for_more_input(gm, gearmand):
    process = gm.popen([SUBMIT, "f"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for number in 1, 2:
        process.stdin.write(b"x\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["line"] == number
    process.stdin.close()
    assert process.wait(10) == 0


def test_reader_that_goes_away_ends_it_and_it_says_how_far_it_came(gm, gearmand):
    result = gm("bash", "-c", "set -o pipefail; seq 200000 | gm-submit f | head -n 3", status=None)
    assert result.out.count(b"\n") == 3 and b"gm-submit: standard output: its reader has gone: stopped after " in result.err
    accepted = int(result.err.rpartition(b"stopped after ")[2].split()[0])
    assert gearmand.waiting(b"f") == accepted < 200000


def test_a_full_disk_under_its_output_is_an_error(gm, gearmand):
    result = gm("sh", "-c", "gm-submit f >/dev/full", input=b"x\n", status=1)
    assert result.err.startswith(b"gm-submit: standard output: cannot write: no space left on device")
    assert gearmand.waiting(b"f") == 1


def test_interrupted(gm, gearmand):
    process = gm.start(SUBMIT, "f", stdin=subprocess.PIPE)
    process.stdin.write(b"x\n")
    process.stdin.flush()
    until(lambda: process.out_path.read_bytes())
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130 and process.err_path.read_bytes() == b""


@pytest.mark.slow
def test_wait_prints_results_as_they_finish(gm, gearmand):
    gm.start("gm-work", "-j2", "w", "--", "sh", "-c", 'read n; sleep "$n"; printf "slept %s\\377" "$n"')
    result = gm(SUBMIT, "--wait", "w", input=b"1\n0\n")
    assert [record["line"] for record in result.records] == [2, 1]
    assert result.records[0]["result_b64"] == "c2xlcHQgMP8=" and result.records[0]["duration"] < result.records[1]["duration"]


@pytest.mark.slow
def test_wait_says_that_nobody_works_and_goes_on_when_somebody_does(gm, gearmand, new_gearmand):
    both = [gearmand, new_gearmand("b.db")]
    client = gm.start(SUBMIT, "--wait", "-s", ",".join(server.server for server in both), "w", stdin=subprocess.PIPE)
    client.stdin.write(b"1\n")
    client.stdin.close()
    until(lambda: any(server.waiting(b"w") for server in both))
    has, other = sorted(both, key=lambda server: -server.waiting(b"w"))
    gm.start("gm-work", "-s", other.server, "w", "--", "cat")   # gearmand hands no job on to another
    until(client.err_path.read_bytes)
    gm.start("gm-work", "-s", has.server, "w", "--", "cat")
    assert client.wait(10) == 0
    assert client.err_path.read_text() == f"gm-submit: w: waiting, but no worker on {has.server} can do it\n"


def test_interrupted_while_it_waits_it_says_what_becomes_of_the_jobs(gm, gearmand):
    client = gm.start(SUBMIT, "--wait", "w", stdin=subprocess.PIPE)
    client.stdin.write(b"1\n2\n")
    client.stdin.flush()
    until(lambda: gearmand.waiting(b"w") == 2)
    client.send_signal(signal.SIGINT)
    assert client.wait(10) == 130
    assert client.err_path.read_bytes().endswith(b"gm-submit: no result yet of 2 jobs: cancelled, unless a worker has begun it\n")
    assert not gm("gm-work", "--until-empty", "w", "--", "cat").records


def test_results_of_a_server_that_dies_are_not_known(gm, gearmand):
    client = gm.start(SUBMIT, "--wait", "w", stdin=subprocess.PIPE, env={"GM_TIMEOUT": "0.2"})
    client.stdin.write(b"1\n2\n")
    client.stdin.close()
    until(lambda: gearmand.waiting(b"w") == 2)
    gearmand.kill()
    assert client.wait(10) == 111
    assert client.err_path.read_bytes().endswith(b": 2 jobs accepted before that: of 2 the result is not known\n")


def test_wait_takes_an_empty_payload_and_fails_when_a_job_does(gm, gearmand):
    gm.start("gm-work", "w", "--", "sh", "-c", "test -n \"$(cat)\" || { echo empty >&2; exit 1; }")
    result = gm(SUBMIT, "--wait", "w", input=b"\nx\n", status=1)
    assert {record["line"]: record.get("error") for record in result.records} == {1: "empty", 2: None}
    assert not gm("gm-dead").records and not gm("gm-dead", "--delayed").records


def test_a_waiting_client_does_not_merge_with_a_background_job_of_the_same_unique(gm, gearmand):
    gm(SUBMIT, "-q", "--unique=same", "w", input=b"background\n")
    client = gm.start(SUBMIT, "--wait", "--unique=same", "w", stdin=subprocess.PIPE)
    client.stdin.write(b"waited\n")
    client.stdin.close()
    until(lambda: gearmand.waiting(b"w") == 2)
    client.kill()
    client.wait()
    assert queued(gm, "w") == [("same", b"background")]   # gearmand drops the job of the client that left


@pytest.mark.slow
def test_a_server_killed_in_mid_stream_loses_nothing_that_was_acknowledged(gm, gearmand):
    process = gm.start(SUBMIT, "f", stdin=subprocess.PIPE, env={"GM_TIMEOUT": "20"})
    process.stdin.write(b"".join(b"%d\n" % number for number in range(3000)))
    process.stdin.flush()
    until(lambda: process.out_path.read_bytes().count(b"\n") > 500)
    gearmand.kill()
    gearmand.start()
    process.stdin.write(b"last\n")
    process.stdin.close()
    assert process.wait(60) == 0, process.err_path.read_bytes()
    assert process.out_path.read_bytes().count(b"\n") == 3001
    assert gearmand.waiting(b"f") == 3001


def test_a_unique_goes_to_the_same_server_of_several_while_it_is_up(gm, gearmand, new_gearmand):
    other = new_gearmand("other.db")
    servers = {"GM_SERVERS": f"{gearmand.server},{other.server}"}
    uniques = [f"u{number}" for number in range(40)]
    lines = "".join(json.dumps({"function": "f", "unique": unique, "data": "x"}) + "\n" for unique in uniques).encode()
    first = {record["unique"]: record["server"] for record in gm(SUBMIT, input=lines, env=servers).records}
    assert 5 < list(first.values()).count(other.server) < 35
    turned = {"GM_SERVERS": f"{other.server},{gearmand.server}"}
    assert {record["unique"]: record["server"] for record in gm(SUBMIT, input=lines, env=turned).records} == first
    assert gearmand.waiting(b"f") + other.waiting(b"f") == 40
    other.kill()
    result = gm(SUBMIT, input=lines, env=servers)
    assert {record["server"] for record in result.records} == {gearmand.server} and gearmand.waiting(b"f") == 40


def test_a_server_that_refuses_a_job_is_reported_by_line(gm, new_gearmand):
    """gearmand with a --queue-type whose store has gone: each submission is an ERROR packet."""
    server = new_gearmand("store.db")
    gm.env["GM_SERVERS"] = server.server
    gm(SUBMIT, "-q", "f", input=b"x\n")
    with gm.database(server.store) as db:
        db.execute("DROP TABLE gearman_queue")
    result = gm(SUBMIT, "f", input=b"1\n2\n", status=1)
    assert [line.split(b": ")[1:4] for line in result.err.splitlines()] == [
        [b"stdin:%d" % number, b"the server refused it", b"QUEUE_ERROR"] for number in (1, 2)]


def test_strict_ends_where_the_server_refuses_a_job(gm, new_gearmand):
    """So that a program which keeps a gm-submit beside it, a record back for each line, does not wait for ever."""
    server = new_gearmand("store.db")
    gm.env["GM_SERVERS"] = server.server
    process = gm.start(SUBMIT, "--strict", "f", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(b"x\n")
    process.stdin.flush()
    assert b'"handle"' in process.stdout.readline()
    with gm.database(server.store) as db:
        db.execute("DROP TABLE gearman_queue")
    process.stdin.write(b"y\nz\n")
    process.stdin.flush()
    assert process.stdout.read() == b"" and process.wait(20) == 1
    assert b"stdin:2: the server refused it" in process.err_path.read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(gm, memory_gearmand):
    script = "import os, resource, subprocess, sys\n" \
             "source = subprocess.Popen(['seq', sys.argv[1]], stdout=subprocess.PIPE)\n" \
             "subprocess.run(['gm-submit', '-q', 'f'], stdin=source.stdout, check=True)\n" \
             "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    few, many = (int(gm("python3", "-c", script, count).out) for count in (2000, 60000))
    assert many < 40 << 10 and many < few + (6 << 10)


@pytest.mark.slow
@pytest.mark.parametrize("quiet, shows", [(["-q"], True), ([], True), (["--json"], False)])
def test_progress_on_a_terminal_where_no_records_are_in_its_way(gm, gearmand, quiet, shows):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = gm.popen([SUBMIT, *quiet, "f"], stdin=subprocess.PIPE, stdout=theirs, stderr=theirs)
    os.close(theirs)
    process.stdin.write(b"1\n")
    process.stdin.flush()
    until(lambda: gearmand.waiting(b"f") == 1)

    def seen():
        process.stdin.write(b"x\n" * 100)
        process.stdin.flush()
        return select.select([ours], [], [], 0)[0] and b"jobs" in os.read(ours, 1 << 16)
    if shows:
        until(seen)
    process.stdin.close()
    process.wait(10)
    if not shows:
        assert b"handle" in os.read(ours, 1 << 16)
    os.close(ours)


def test_no_progress_from_the_background_of_a_shell(gm):
    """It would be drawn over what the foreground shows."""
    asks = f"{sys.executable} -c 'from libgm.shell.progress import in_background; print(in_background())'"
    pid, master = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execvpe("bash", ["bash", "-c", f"set -m; {asks}; true | {asks}; {asks} & wait"], gm.env)
    shown = b""
    while shown.count(b"e\r\n") < 3:
        shown += os.read(master, 65536)
    os.close(master)
    os.waitpid(pid, 0)
    assert shown.split()[:3] == [b"False", b"False", b"True"]
