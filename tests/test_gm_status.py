"""gm-status: queues, workers and quarantine in one snapshot."""

from __future__ import annotations

import json
import time

import pytest
from conftest import free_port, until
from helpers import HOSTILE, answering, make_job_older, silent, terminal
from helpers import status_of as of


@pytest.mark.slow
def test_counts_of_a_function(gm, gearmand, die, tmp_path):
    die("n", b"1\n2\n")
    die("n", b"3\n", "exit 1", "--tries=2", "--delay=1h")
    gm("gm-submit", "-q", "n", input=b"".join(b"%d\n" % n for n in range(1000)))
    gm("gm-submit", "-q", "--priority=high", "n", input=b"x\n")
    record = of(gm, "n")
    assert (record["waiting"], record["running"], record["workers"], record["delayed"], record["dead"]) == (1001, 0, 0, 1, 2)
    assert (record["high"], record["normal"], record["low"]) == (1, 1000, 0)
    assert record["servers"] == [gearmand.server] and record["oldest_dead"] and record["oldest_start"] is None
    assert record["overdue"] == 0 and record["trouble"].startswith("no worker; 2 dead, the oldest for ")
    gm.start("gm-work", "n", "--", "sh", "-c", "sleep 1000")
    until(lambda: of(gm, "n")["running"] == 1)
    record = of(gm, "n")
    assert record["waiting"] == 1000 and record["workers"] == 1 and record["oldest_start"]
    assert "no worker" not in record["trouble"]


def test_workers_of_gearmand_and_of_the_file(gm, gearmand):
    gm("gm-submit", "-u", "mine", "w", input=b"x\n")
    gm.start("gm-work", "w", "--", "sh", "-c", "sleep 1000")
    until(lambda: [r for r in gm("gm-status", "--workers").records if r["source"] == "file" and r["unique"] == "mine"])
    records = gm("gm-status", "--workers").records
    assert any(r["source"] == "gearmand" and r["functions"] == ["w"] for r in records)
    assert all(r["alive"] for r in records if r["source"] == "file")


def test_a_server_that_is_down_is_said_and_the_others_shown(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"x\n")
    both = f"127.0.0.1:1,{gearmand.server}"
    result = gm("gm-status", "-s", both, status=1)
    assert b"127.0.0.1:1" in result.err and result.records[0]["waiting"] == 1
    gm("gm-status", "-s", "127.0.0.1:1", status=111)


@pytest.mark.slow
def test_several_servers_summed_and_one_by_one(gm, gearmand, new_gearmand, die):
    die("f", b"1\n")
    other = new_gearmand(None)
    both = f"{gearmand.server},{other.server}"
    gm("gm-submit", "-q", "-s", gearmand.server, "f", input=b"x\ny\n")
    gm("gm-submit", "-q", "-s", other.server, "--priority=low", "f", input=b"z\n")
    gm.start("gm-work", "-s", gearmand.server, "f", "--", "sleep", "1000")
    until(lambda: gearmand.status()[b"f"][1] == 1)
    record = of(gm, "f", "-s", both)
    assert (record["waiting"], record["running"], record["low"], record["dead"]) == (2, 1, 1, 1)
    assert record["servers"] == [gearmand.server, other.server]
    assert record["trouble"].startswith(f"no worker on {other.server}; 1 dead")
    records = {record["server"]: record for record in gm("gm-status", "--by-server", "-s", both).records}
    assert {name: record["waiting"] for name, record in records.items()} == {gearmand.server: 1, other.server: 1, None: None}
    assert {name: record["trouble"] and record["trouble"][:9] for name, record in records.items()} == {
        gearmand.server: None, other.server: "no worker", None: "1 dead, t"}
    assert records[None]["dead"] == 1 and records[other.server]["dead"] is None and records[other.server]["low"] == 1


def test_a_file_that_cannot_be_read_is_said_and_the_queues_shown(gm, gearmand, tmp_path):
    gm("gm-submit", "-q", "f", input=b"x\n")
    (tmp_path / "quarantine.db").write_text("no database, whatever its name says; " * 100)
    result = gm("gm-status", status=1)
    assert b"quarantine.db: not a quarantine file" in result.err and result.records[0]["waiting"] == 1
    assert b"gearmang_quarantine_up 0\n" in gm("gm-status", "--prometheus", status=1).out
    result = gm("gm-status", "--quarantine=/nowhere/q.db", status=1)
    assert b"/nowhere/q.db: no such file" in result.err and result.records


def test_function_names_of_any_kind(gm, gearmand):
    gm("gm-submit", "-q", "tab\there é", input=b"x\n")
    assert of(gm, "tab\there é")["waiting"] == 1
    gm("gm-submit", "-q", input=json.dumps({"function_b64": "/w==", "data": "x"}).encode() + b"\n")
    records = gm("gm-status").records
    assert [record for record in records if record.get("function_b64") == "/w=="]
    assert b"\\xff" in gm("gm-status", "--table").out


@pytest.mark.slow
def test_ten_thousand_functions(gm, fake):
    rows = b"".join(b"a function name that is as long as they get, in some houses, number %05d of 10000\t%d\t0\t0\n" % (n, n % 2)
                    for n in range(10000))
    rows += b"a" * 400000 + b"\t1\t0\t0\n"
    server = answering(fake, rows)
    assert len(rows) > 1 << 20
    records = gm("gm-status", "-s", server).records
    assert len(records) == 10001 and sum(record["waiting"] for record in records) == 5001
    table = gm("gm-status", "-s", server, "--table").out.splitlines()
    assert len(table) == 10002 and b"no worker" in table[1] and b"no worker" not in table[-1]


def test_running_below_zero_is_shown_as_it_is(gm, fake):
    server = answering(fake, b"f\t2\t-1\t3\ng\t0\t0\t0\n")
    record = of(gm, "f", "-s", server)
    assert (record["running"], record["waiting"], record["trouble"]) == (-1, 2, "running below zero")
    balanced = answering(fake, b"f\t2\t1\t3\n")
    record = of(gm, "f", "-s", f"{server},{balanced}")
    assert record["running"] == 0 and record["trouble"] == f"running below zero on {server}"


@pytest.mark.slow
def test_workers_in_trouble_stand_out(gm, gearmand):
    for name in ("hung", "well"):
        gm("gm-submit", "-q", name, input=b"1\n")
        gm.start("gm-work", name, "--", "sleep", "1000")
    until(lambda: len([r for r in gm("gm-status", "--workers").records if r.get("handle")]) == 2)
    make_job_older(gm, "hung", 3600 * 4)
    first, *others = terminal(gm, "gm-status", "--workers").splitlines()[1:]
    assert first.startswith("\x1b[1;31mfile ") and "a job runs for 4h" in first
    assert len(others) >= 3 and not any(line.startswith("\x1b") for line in others)


def test_client_ids_with_spaces(gm, fake):
    server = answering(fake, b"", "30 127.0.0.1 a client é : with colons : f g\n31 ::1 - :\n".encode())
    record, = gm("gm-status", "--workers", "-s", server).records
    assert (record["client"], record["functions"], record["ip"]) == ("a client é : with colons", ["f", "g"], "127.0.0.1")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--by-server",), ("--workers",), ("--prometheus",)])
def test_silent_servers_are_given_up_all_at_once(gm, gearmand, fake, options):
    gm("gm-submit", "-q", "f", input=b"x\n")
    mute = [silent(fake) for _ in range(20)]
    result = gm("gm-status", *options, "-s", ",".join([*mute, gearmand.server]), env={"GM_TIMEOUT": "0.5"}, status=1)
    assert result.err.decode().splitlines()[1:] == [f"gm-status: {name}: no answer in 0.5 s" for name in mute]
    assert b'"f"' in result.out or options == ("--workers",)
    gm("gm-status", *options, "-s", mute[0], env={"GM_TIMEOUT": "0.5"}, status=111)


def test_a_server_that_dribbles_is_given_up(gm, fake):
    def dribble(connection):
        for _ in range(600):
            connection.sendall(b"f")
            time.sleep(0.1)
    result = gm("gm-status", "-s", str(fake(dribble).server), env={"GM_TIMEOUT": "0.5"}, status=111)
    assert b"no answer in 0.5 s" in result.err


def samples(text: bytes) -> dict:
    """What Prometheus' own parser reads: (name, labels...) -> value; every family has its HELP and TYPE."""
    from prometheus_client.parser import text_string_to_metric_families
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation and family.type == "gauge"
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def test_prometheus_text_is_valid_and_whole(gm, gearmand, die, fake):
    die("f", b"1\n")
    gm("gm-submit", "-q", HOSTILE, input=b"x\ny\n")
    gm("gm-submit", "-q", input=json.dumps({"function_b64": "/w==", "data": "x", "priority": "low"}).encode() + b"\n")
    below, down = answering(fake, b"f\t1\t-2\t1\n"), f"127.0.0.1:{free_port()}"
    found = samples(gm("gm-status", "--prometheus", "-s", f"{gearmand.server},{below},{down}", status=1).out)
    here, there = ("server", gearmand.server), ("server", below)
    assert found["gearmang_up", here] == 1 and found["gearmang_up", there] == 1
    assert found["gearmang_up", ("server", down)] == 0
    assert found["gearmang_waiting_jobs", ("function", HOSTILE.replace("\\", "\\\\")), here] == 2
    assert found["gearmang_queued_jobs", ("function", "\\xff"), ("priority", "low"), here] == 1
    assert found["gearmang_running_jobs", ("function", "f"), there] == -2
    assert found["gearmang_dead_jobs", ("function", "f")] == 1 and found["gearmang_quarantine_up",] == 1
    assert abs(found["gearmang_oldest_dead_timestamp_seconds", ("function", "f")] - time.time()) < 100


def test_prometheus_text_without_any_server(gm):
    found = samples(gm("gm-status", "--prometheus", status=111).out)
    assert found == {("gearmang_up", ("server", gm.env["GM_SERVERS"])): 0}


@pytest.mark.slow
def test_what_is_stuck_stands_out_on_a_terminal(gm, gearmand, die):
    die("broken", b"1\n")
    die("late", b"1\n", "exit 1", "--tries=2", "--delay=1h")
    with gm.database() as db:
        db.execute("UPDATE job SET due = 1, servers = 'elsewhere:4730' WHERE state = 'delayed'")
        db.execute("UPDATE job SET last_failed = last_failed - 3600 * 50 WHERE state = 'dead'")
    for name in ("a-fine", "z-fine", "unmanned", "hung"):
        gm("gm-submit", "-q", name, input=b"1\n")
    for name in ("a-fine", "z-fine", "hung"):
        gm.start("gm-work", name, "--", "sleep", "1000")
        until(lambda: of(gm, name)["running"] == 1)
    with gm.database() as db:
        until(lambda: db.execute("SELECT count(*) FROM start").fetchone()[0] == 3)
    make_job_older(gm, "hung", 3600 * 4)
    lines = terminal(gm, "gm-status").splitlines()
    entries = "\n".join(lines).replace("\x1b[1;31m    ", "    ").split("\n")   # what is wrong may have a line of its own
    marked = {}
    for line in entries:
        if line.startswith("\x1b[1;31m"):
            marked[line.split()[0].removeprefix("\x1b[1;31m")] = line
        elif line.startswith("    ") and line.endswith("\x1b[m"):
            marked[list(marked)[-1]] += line
    assert list(marked) == ["broken", "hung", "late", "unmanned"]
    assert [line.split()[0] for line in lines if line and "fine" in line.split()[0]] == ["a-fine", "z-fine"]
    assert not any(line.startswith("\x1b") for line in lines[-2:]) and lines[0].split()[0] == "function"
    for name, trouble in (("broken", "1 dead, the oldest for 2d"), ("hung", "a job runs for 4h"),
                          ("late", "1 overdue"), ("unmanned", "no worker")):
        assert trouble in marked[name]
    assert "\x1b" not in gm("gm-status", "--table").out.decode()
    gm.env["NO_COLOR"] = "1"
    assert "\x1b" not in terminal(gm, "gm-status")


def test_only_one_view_at_a_time(gm):
    assert b"--by-server and --workers: only one" in gm("gm-status", "--workers", "--by-server", status=2).err


def test_what_no_server_could_tell_is_null_and_not_0(gm, gearmand, die):
    die("f", b"x\n")
    record, = gm("gm-status", "-s", "127.0.0.1:1", status=111).records
    assert record["waiting"] is record["running"] is record["workers"] is record["high"] is None and record["dead"] == 1
    assert record["trouble"].startswith("no server can be reached; ")


@pytest.mark.slow
def test_functions_by_glob_and_only_busy_ones(gm, fake, die):
    die("dead", b"1\n")
    server = answering(fake, b"idle\t0\t0\t3\nwaiting\t2\t0\t1\nrunning\t1\t1\t1\nlonely\t1\t0\t0\n")
    names = [record["function"] for record in gm("gm-status", "-s", server).records]
    assert names == ["dead", "idle", "lonely", "running", "waiting"]
    assert [record["function"] for record in gm("gm-status", "--busy", "-s", server).records] == [
        name for name in names if name != "idle"]
    for options in ((), ("--by-server",), ("--workers",)):
        found = gm("gm-status", *options, "-f", "*ing", "-s", server).records
        assert {record["function"] for record in found} == ({"running", "waiting"} if options != ("--workers",) else set())
    text = gm("gm-status", "--prometheus", "-f", "dead", "-s", server).out
    assert b'gearmang_dead_jobs{function="dead"} 1' in text and b"waiting_jobs{" not in text
    assert b"--busy and --workers: only one" in gm("gm-status", "--busy", "--workers", status=2).err


def test_workers_by_glob(gm, gearmand):
    for name in ("one", "other"):
        gm.start("gm-work", name, "--", "cat")
    until(lambda: {b"one", b"other"} <= set(gearmand.status()))
    until(lambda: {(record["source"], record.get("function") or record["functions"][0])
                   for record in gm("gm-status", "--workers", "-f", "on?").records} == {("gearmand", "one"), ("file", "one")})


def test_a_quarantine_file_that_was_named_and_is_not_there_is_said(gm, fake):
    server = answering(fake, b"f\t1\t0\t1\n")
    result = gm("gm-status", "-s", server, env={"GM_QUARANTINE": "/nowhere/q.db"})
    assert result.err.count(b"\n") == 1 and b"/nowhere/q.db: no such file yet" in result.err and result.records
    result = gm("gm-status", "-s", server, "--quarantine=/nowhere/q.db", status=1)
    assert result.err.count(b"\n") == 1 and b"/nowhere/q.db: no such file: " in result.err and result.records
    env = {"GM_QUARANTINE": None, "XDG_STATE_HOME": str(gm.home)}
    assert gm("gm-status", "-s", server, env=env).err == b""   # nothing was quarantined yet


def test_thirty_idle_functions_hide_none_in_trouble(gm, fake):
    rows = b"".join(b"idle-%02d\t0\t0\t1\n" % n for n in range(30)) + b"z-stuck\t1\t0\t0\nz-busy\t1\t1\t1\n"
    server = answering(fake, rows)
    shown = terminal(gm, "gm-status", "-s", server)
    lines = [line for line in shown.splitlines() if "quarantine.db" not in line]
    assert len(lines) == 4 and "z-stuck" in shown and "z-busy" in shown
    assert "30 idle functions are not shown: gm-status -f '*' shows all" in shown
    assert "idle-29" in terminal(gm, "gm-status", "-s", server, "-f", "*")
    assert len(gm("gm-status", "--table", "-s", server).out.splitlines()) == 33


def test_no_sample_is_there_twice(gm, fake):
    """Of names that read alike, or that a server lists twice."""
    server = answering(fake, b"\xff\t1\t0\t1\n\\xff\t2\t0\t1\nf\t1\t0\t1\nf\t2\t0\t1\n")
    found = samples(gm("gm-status", "--prometheus", "-s", server).out)
    assert found["gearmang_waiting_jobs", ("function", "\\xff"), ("server", server)] == 1
    assert found["gearmang_waiting_jobs", ("function", "\\\\xff"), ("server", server)] == 2
    assert found["gearmang_waiting_jobs", ("function", "f"), ("server", server)] == 3


def test_priorities_of_a_server_that_counts_to_one_are_null(gm, fake):
    """As gearmand up to 1.1.19: what it cannot tell is null, and what it can is kept."""
    server = answering(fake, b"many\t5\t0\t1\none\t1\t0\t1\nnone\t0\t0\t1\n",
                       priorities=b"many\t0\t1\t1\t1\none\t0\t1\t0\t1\nnone\t0\t0\t0\t1\n")
    found = {record["function"]: [record[name] for name in ("high", "normal", "low")]
             for record in gm("gm-status", "-s", server).records}
    assert found == {"many": [None] * 3, "one": [0, 1, 0], "none": [0, 0, 0]}
    assert b'queued_jobs{server="%s",function="many"' % server.encode() not in gm("gm-status", "--prometheus", "-s", server).out
