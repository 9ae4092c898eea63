"""Jobs that kill, hang, flood and eat: no job keeps another from being done, and every death is counted once."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest
from conftest import strays, until
from helpers import children, cpu_seconds

from libgm.worker import verdict

pytestmark = pytest.mark.slow

KILLER = 'n=$(cat); echo $n >> runs; case $n in *0) kill -9 $PPID; exec sleep 1000;; esac'   # every tenth


def events(worker):
    """The events of a worker in the background, as far as they are whole."""
    return [json.loads(line) for line in worker.out_path.read_bytes().split(b"\n")[:-1]]


def counted(worker):
    return collections.Counter(event["event"] for event in events(worker))


def submit(gm, function, count):
    gm("gm-submit", "-q", function, input=b"".join(b"%d\n" % number for number in range(1, count + 1)))


def dead(gm, *options):
    return gm("gm-dead", *options).records


def workers(gm):
    return [record for record in gm("gm-status", "--workers").records
            if record["source"] == "file" and record["tool"] == "gm-work" and record["alive"]]


def check_killers(gm, gearmand, tmp_path, jobs):
    """Every tenth of the jobs ran three times and is quarantined as lost; the others were done; nothing is left."""
    killers = [str(number) for number in range(10, jobs + 1, 10)]
    records = dead(gm)
    assert sorted(record["data"] for record in records) == sorted(killers)
    assert {(record["reason"], record["attempts"], record["error"]) for record in records} == {
        ("lost", 3, "its worker died with it")}
    runs = collections.Counter((tmp_path / "runs").read_text().split())
    assert set(runs) == {str(number) for number in range(1, jobs + 1)}
    assert {runs[number] for number in killers} == {3}
    until(lambda: gearmand.status()[b"f"][0] == 0)
    with gm.database() as db:
        assert db.execute("SELECT count(*) FROM start").fetchone() == (0,)


def test_jobs_that_kill_their_worker_are_counted_and_the_others_done(gm, gearmand, tmp_path):
    submit(gm, "f", 60)
    result = gm("gm-work", "--until-empty", "-j3", "f", "--", "sh", "-c", KILLER)
    found = collections.Counter(event["event"] for event in result.records)
    # a worker may be killed before the job that it did before is answered: that runs again, and is done once more
    assert found["retry"] >= 12 and found["dead"] == 6
    check_killers(gm, gearmand, tmp_path, 60)
    # a worker that had a job was replaced at once: it is those that die without one that wait
    assert not re.search(rb"starting another in [1-9]", result.err)


def test_they_are_counted_though_server_and_parent_are_killed_too(gm, gearmand, tmp_path):
    submit(gm, "f", 60)
    work = ("gm-work", "-j3", "f", "--", "sh", "-c", "sleep 0.02; " + KILLER)
    worker = gm.start(*work)
    for killed in (gearmand, worker, gearmand):
        until(lambda: len(events(worker)) >= 8, what="events")
        killed.kill()
        if killed is gearmand:
            gearmand.start()
        else:
            worker.wait(10)
            worker = gm.start(*work)
    until(lambda: gearmand.status()[b"f"][0] == 0, what="all settled")
    check_killers(gm, gearmand, tmp_path, 60)


def test_workers_that_die_at_once_are_replaced_ever_more_slowly(gm, gearmand):
    worker = gm.start("gm-work", "f", "--", "cat")

    def kill():
        for pid in children(worker.pid):
            os.kill(pid, signal.SIGKILL)
        return b"starting another in 0.8 s" in worker.err_path.read_bytes()
    until(kill, what="pauses that grow")
    said = re.findall(rb"starting another(?: in ([0-9.]+) s)?$", worker.err_path.read_bytes(), re.M)
    assert set(said[:2]) == {b""} and set(said) <= {b"", b"0.1", b"0.2", b"0.4", b"0.8"} and len(said) <= 10
    worker.terminate()
    assert worker.wait(10) == 0


def test_a_killed_worker_s_job_is_ended_before_it_is_started_again(gm, gearmand, tmp_path):
    """Its own group, and what has left it for a session of its own."""
    gm("gm-submit", "f", input=b"x\n")
    script = ('test $GM_ATTEMPT = 1 || exec cat; echo $$ > one; setsid sh -c "echo \\$\\$ > two; exec sleep 1000" & '
              'sh -c "trap \'\' TERM; echo \\$\\$ > three; sleep 1000; sleep 1000" & '
              'while ! [ -s two ] || ! [ -s three ]; do sleep 0.01; done; kill -9 $PPID; sleep 1000')
    lost, done = gm("gm-work", "--until-empty", "f", "--", "sh", "-c", script).records
    assert (lost["event"], lost["reason"], lost["attempts"]) == ("retry", "lost", 1)
    assert (done["event"], done["attempts"]) == ("done", 2)
    pids = {int((tmp_path / name).read_text()) for name in ("one", "two", "three")}
    assert not pids & set(strays(gm.home))


def test_a_job_that_stops_its_worker_is_quarantined_after_ten_releases(gm, gearmand, tmp_path):
    gm("gm-submit", "f", input=b"x\n")
    result = gm("gm-work", "--until-empty", "--grace=0.05", "f", "--", "sh", "-c",
                "echo >> runs; kill -TERM $PPID; exec sleep 1000")
    assert [event["event"] for event in result.records] == ["release"] * 10 + ["dead"]
    assert (tmp_path / "runs").read_text().count("\n") == 10
    record, = dead(gm)
    assert (record["reason"], record["attempts"]) == ("lost", 0) and record["error"].startswith("released 10 times")


def test_the_end_of_the_grace_hands_the_job_back_uncounted(gm, gearmand, tmp_path):
    gm("gm-submit", "f", input=b"x\n")
    worker = gm.start("gm-work", "--grace=0.1", "f", "--", "sh", "-c", "trap '' TERM; echo > begun; sleep 1000; sleep 1000")
    until((tmp_path / "begun").exists)
    worker.terminate()
    assert worker.wait(20) == 0
    assert [event["event"] for event in events(worker)] == ["release"]
    until(lambda: set(strays(gm.home)) <= {gearmand.process.pid}, what="the job has ended")
    event, = gm("gm-work", "--until-empty", "f", "--", "cat").records
    assert (event["event"], event["attempts"]) == ("done", 1)


def test_a_worker_that_does_not_hear_term_is_killed_by_its_parent(gm, gearmand, tmp_path):
    gm("gm-submit", "f", input=b"x\n")
    worker = gm.start("gm-work", "--grace=0", "f", "--", "sh", "-c", "echo $PPID > hung; kill -STOP $PPID; sleep 1000")
    until(lambda: (tmp_path / "hung").exists() and (tmp_path / "hung").read_text())
    worker.terminate()
    worker.terminate()
    assert worker.wait(40) == 0
    assert b"does not end: killing it" in worker.err_path.read_bytes()
    assert set(strays(gm.home)) == {gearmand.process.pid}


def test_a_reader_of_events_that_does_not_read_does_not_keep_term_waiting(gm, memory_gearmand):
    function = "f" * 500
    submit(gm, function, 400)
    reading, writing = os.pipe()
    worker = gm.start("gm-work", "--grace=0", function, "--", "true", stdout=writing)
    os.close(writing)
    until(lambda: memory_gearmand.status().get(function.encode(), (1, 0, 0))[0] == 0, what="all jobs are done")
    worker.terminate()
    worker.terminate()
    assert worker.wait(40) == 1
    assert b"does not read" in worker.err_path.read_bytes()
    os.close(reading)


# ---- isolation: each ends in time, with a reason that a person understands

@pytest.mark.parametrize("script, reason, error", [
    ("kill -STOP $$; sleep 1000", "timeout", "timed out after 0.3 s"),
    ("trap '' TERM; sleep 1000; sleep 1000", "timeout", "timed out after 0.3 s"),
    ("head -c 1073741824 /dev/zero", "error", "output over 64 MiB"),
    ("trap '' TERM; cat /dev/zero", "error", "output over 64 MiB"),
    ("exec prlimit --as=200000000 tail /dev/zero", "error", "tail: memory exhausted"),
    ("exec prlimit --cpu=1 sh -c 'while :; do :; done'", "crash", "killed by SIGKILL"),
    ("echo the reason >&2; cat /dev/zero >&2", "timeout", "timed out after 0.3 s"),
], ids=["stopped", "ignores TERM", "1 GiB", "endless", "memory", "cpu", "endless stderr"])
def test_what_a_job_does_to_itself(gm, gearmand, script, reason, error):
    gm("gm-submit", "f", input=b"x\n")
    limit = "0.3" if reason == "timeout" else "60"
    event, = gm("gm-work", "--until-empty", "--tries=1", "-t", limit, "--grace=0.2", "f", "--", "sh", "-c", script).records
    assert (event["event"], event["reason"], event["error"]) == ("dead", reason, error)
    assert set(strays(gm.home)) == {gearmand.process.pid}


def test_a_daemon_that_holds_the_output_keeps_nobody_waiting(gm, gearmand, tmp_path):
    gm("gm-submit", "f", input=b"x\n")
    event, = gm("gm-work", "--until-empty", "f", "--", "sh", "-c",
                "setsid sleep 1000 & setsid yes & echo the result").records
    assert event["event"] == "done" and event["exit"] == 0
    assert len(strays(gm.home)) == 2   # gearmand, and a daemon that is the job's own affair


def test_a_job_that_closes_its_input_early_is_done(gm, gearmand):
    gm("gm-submit", "f", "-", input=bytes(8 << 20))
    gm("gm-submit", "f", "-", input=bytes(8 << 20))
    found = gm("gm-work", "--until-empty", "f", "--", "sh", "-c", "exec <&-; sleep 0.1; echo done").records
    assert [event["event"] for event in found] == ["done", "done"]


def memory(pid):
    """Resident memory in MiB."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def test_what_was_large_leaves_no_memory_behind(gm, memory_gearmand, tmp_path):
    gm("gm-submit", "f", "-", input=os.urandom(1 << 20) * 60)
    submit(gm, "f", 1)
    worker = gm.start("gm-work", "--tries=2", "--delay=0.1", "f", "--", "sh", "-c",
                      'test $GM_ATTEMPT = 2 && exec cat; head -c 70000000 /dev/zero; exit 1')
    until(lambda: counted(worker)["done"] == 2)
    until(lambda: all(memory(pid) < 30 for pid in [worker.pid, *children(worker.pid)]), what="all are small again")


# ---- a payload too large for memory: gm-delivery(7), rule 10

def send_large(port, function, blocks):
    """Submit a background job of more than gm-submit sends, a block at a time."""
    size = sum(len(block) for block in blocks)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(struct.pack(">4sII", b"\0REQ", 18, len(function) + 1 + 6 + size) + function + b"\0large\0")
        for block in blocks:
            connection.sendall(block)
        assert connection.recv(100).startswith(b"\0RES\0\0\0\x08")


def test_a_payload_over_64_mib_is_kept_in_a_file_and_does_not_come_back(gm, memory_gearmand, tmp_path):
    block = os.urandom(1 << 20)
    send_large(memory_gearmand.port, b"f", [block] * 100)
    submit(gm, "f", 1)
    worker = gm.start("gm-work", "f", "--", "cat")
    until(lambda: len(events(worker)) == 2)
    assert max(memory(pid) for pid in children(worker.pid)) < 50   # it never was in memory
    large, other = events(worker)
    assert (large["event"], large["reason"], large["error"]) == (
        "dead", "rejected", "payload of 104857600 bytes: more than 64 MiB")
    until(lambda: memory_gearmand.status()[b"f"][0] == 0)
    assert other["event"] == "done"
    record, = dead(gm)
    assert (record["unique"], record["data"]) == ("large", "")
    file = Path(record["payload_file"])
    assert file.stat().st_size == 100 << 20 and file.stat().st_mode & 0o777 == 0o600
    shown = gm("gm-dead", "--data", record["id"]).out
    assert hashlib.sha256(shown).digest() == hashlib.sha256(block * 100).digest()
    assert b"too large" in gm("gm-requeue", record["id"], status=1).err
    gm("gm-drop", record["id"])
    assert not file.exists() and dead(gm) == []


UNSYNCED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int fsync(int fd)
{
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, "-payload-") && !access(getenv("BROKEN"), F_OK)) {
        errno = EIO;
        return -1;
    }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd);
}
"""   # as a disk that breaks, while the file $BROKEN is there


@pytest.mark.parametrize("size, command", [
    (65, ["gm-work", "--until-empty", "f", "--", "cat"]), (65, ["gm-work", "f", "--", "cat"]), (65, ["gm-drain", "f"]),
    (129, ["gm-collect", "f"])], ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None)
def test_a_large_payload_that_the_disk_does_not_take_stays_with_its_server(gm, memory_gearmand, tmp_path, size, command):
    (tmp_path / "unsynced.c").write_text(UNSYNCED)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "unsynced.so", tmp_path / "unsynced.c", "-ldl"], check=True)
    (tmp_path / "broken").touch()
    send_large(memory_gearmand.port, b"f", [bytes(1 << 20)] * size)
    tool = gm.start(*command, env={"LD_PRELOAD": str(tmp_path / "unsynced.so"), "BROKEN": str(tmp_path / "broken")})
    until(lambda: b": cannot write: " in tool.err_path.read_bytes())
    assert memory_gearmand.status()[b"f"][0] == 1 and dead(gm) == []
    if "--until-empty" in command:   # nobody would mend it meanwhile: three tries
        assert tool.wait(60) == 111
        tool = gm.start(*command)
    (tmp_path / "broken").unlink()
    record, = until(lambda: dead(gm))
    assert Path(record["payload_file"]).stat().st_size == size << 20
    until(lambda: memory_gearmand.status()[b"f"][0] == 0)
    if command in (["gm-work", "f", "--", "cat"], ["gm-collect", "f"]):   # the others end by themselves
        tool.terminate()
    assert tool.wait(30) == 0


def test_what_a_killed_worker_left_of_a_large_payload_is_removed(gm, gearmand, tmp_path):
    gm("gm-submit", "f", input=b"x\n")
    gm("gm-work", "--until-empty", "--tries=1", "f", "--", "false")
    living = gm.start("gm-work", "f", "--", "cat")
    ident = until(lambda: [record["worker"] for record in workers(gm)])[0]
    names = ["quarantine.db-payload-1.1", f"quarantine.db-payload-{ident}.1", "quarantine.db-payload-1.2", "other-payload-1.1"]
    for name in names:
        (tmp_path / name).write_text("part")
    with gm.database() as db:
        db.execute("UPDATE job SET payload_file = ?", (f"/moved/{names[2]}",))
    gm("gm-work", "--until-empty", "f", "--", "cat")
    assert [name for name in names if (tmp_path / name).exists()] == names[1:]
    living.terminate()
    assert living.wait(10) == 0


# ---- a full disk

def limit_files(pids, size):
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))


def test_without_room_in_the_file_jobs_are_not_acknowledged_and_go_on_when_there_is(gm, gearmand, tmp_path):
    submit(gm, "f", 3)
    worker = gm.start("gm-work", "--tries=1", "f", "--", "sh", "-c",
                      "n=$(cat); echo > begun; while ! [ -e go ]; do sleep 0.01; done; test $n = 2")
    until((tmp_path / "begun").exists)
    limit_files(children(worker.pid), 4096)   # what a full disk is to SQLite, for these processes alone
    (tmp_path / "go").touch()
    until(lambda: b"trying again" in worker.err_path.read_bytes())
    assert events(worker) == [] and gearmand.status()[b"f"][0] == 3 and dead(gm) == []
    limit_files(children(worker.pid), resource.RLIM_INFINITY)
    until(lambda: counted(worker) == {"dead": 2, "done": 1})
    said = worker.err_path.read_text()
    # the process that releases retries may have found no room either
    assert said.count("trying again") == 1 and said.count("going on") == 1 + said.count("delayed retries: ")
    until(lambda: gearmand.status()[b"f"][0] == 0)
    assert sorted(record["data"] for record in dead(gm)) == ["1", "3"]


def test_term_is_heard_while_there_is_no_room(gm, gearmand, tmp_path):
    submit(gm, "f", 1)
    worker = gm.start("gm-work", "f", "--", "sh", "-c", "echo > begun; while ! [ -e go ]; do sleep 0.01; done")
    until((tmp_path / "begun").exists)
    limit_files(children(worker.pid), 4096)
    (tmp_path / "go").touch()
    until(lambda: b"trying again" in worker.err_path.read_bytes())
    worker.terminate()
    assert worker.wait(20) == 0
    assert gearmand.waiting(b"f") == 1


# ---- delays

def test_a_delayed_retry_is_released_once_by_whoever_has_the_same_servers(gm, gearmand, tmp_path):
    submit(gm, "f", 30)
    gm("gm-work", "--until-empty", "--brake=0", "--delay=1", "f", "--", "false")
    others = [gm.start("gm-work", f"other{number}", "--", "cat") for number in range(3)]
    elsewhere = gm.start("gm-work", "-s", f"{gearmand.server},127.0.0.1:1", "other", "--", "cat")
    until(lambda: gearmand.waiting(b"f") == 30, what="all are released")
    assert dead(gm, "--delayed") == []
    found = gm("gm-work", "--until-empty", "f", "--", "cat").records
    assert sorted(event["attempts"] for event in found) == [2] * 30
    for other in (*others, elsewhere):
        other.terminate()
        assert other.wait(10) == 0


def test_what_a_killed_releaser_claimed_is_released_by_the_next(gm, gearmand):
    submit(gm, "f", 1)
    gm("gm-work", "--until-empty", "--delay=0.1", "f", "--", "false")
    with gm.database() as db:
        db.execute("UPDATE job SET claim = 1")   # of a process that has gone
    event = gm("gm-work", "--until-empty", "f", "--", "cat").records or \
        until(lambda: gm("gm-work", "--until-empty", "f", "--", "cat").records)
    assert (event[0]["event"], event[0]["attempts"]) == ("done", 2)


def test_delays_double_with_a_cap(gm, gearmand):
    submit(gm, "f", 1)
    said = gm("gm-work", "--until-empty", "--delay=100", "f", "--", "false").err
    first = float(re.search(rb"tried again in ([0-9.]+) s", said)[1])
    assert 90 <= first <= 110
    for attempts, low, high in ((1, 4.5, 5.5), (2, 9, 11), (5, 72, 88), (20, 3600, 3600), (10 ** 6, 3600, 3600)):
        assert low <= verdict.delay(attempts, 5.0, 3600.0) <= high
    assert verdict.delay(3, 0.0, 3600.0) == 0.0


# ---- servers that come and go

def test_one_of_two_servers_goes_and_comes_back(gm, new_gearmand):
    one, two = new_gearmand("one.db"), new_gearmand("two.db")
    worker = gm.start("gm-work", "-s", f"{one.server},{two.server}", "f", "--", "cat")
    until(lambda: one.status().get(b"f", (0, 0, 0))[2] and two.status().get(b"f", (0, 0, 0))[2])
    two.kill()
    gm("gm-submit", "-s", one.server, "f", input=b"1\n2\n")
    until(lambda: counted(worker)["done"] == 2)
    two.start()
    gm("gm-submit", "-s", two.server, "f", input=b"3\n")
    until(lambda: counted(worker)["done"] == 3, 40)
    one.kill()
    one.start()
    gm("gm-submit", "-s", one.server, "f", input=b"4\n")
    until(lambda: counted(worker)["done"] == 4, 40)
    said = worker.err_path.read_text()
    for server in (one, two):
        assert said.count(f"{server.server}: connection lost") == 1 and said.count(f"{server.server}: connected again") == 1


def test_a_server_that_does_not_answer_is_said_once_and_keeps_nobody_waiting(gm, new_gearmand):
    one, two = new_gearmand(None), new_gearmand(None)
    worker = gm.start("gm-work", "-s", f"{one.server},{two.server}", "f", "--", "cat", env={"GM_TIMEOUT": "0.3"})
    until(lambda: one.status().get(b"f", (0, 0, 0))[2] and two.status().get(b"f", (0, 0, 0))[2])
    two.process.send_signal(signal.SIGSTOP)
    try:
        for number in range(1, 6):
            gm("gm-submit", "-s", one.server, "f", input=b"x\n" * 20)
            until(lambda: counted(worker)["done"] == 20 * number)
        until(lambda: b"no answer" in worker.err_path.read_bytes(), 40)
    finally:
        two.process.send_signal(signal.SIGCONT)
    assert b"connected again" not in worker.err_path.read_bytes()
    gm("gm-submit", "-s", two.server, "f", input=b"x\n")
    until(lambda: counted(worker)["done"] == 101, 60)


def test_a_job_whose_worker_lives_in_another_container_is_not_counted(gm, gearmand, tmp_path):
    """The server restarts and hands the job out again, while its worker has it in hand in another pid namespace."""
    apart = next(prefix for prefix in (("unshare", "-rpf", "--mount-proc"), ("unshare", "-rpf"), ())   # what is allowed here
                 if not prefix or subprocess.run([*prefix, "true"], stderr=subprocess.DEVNULL).returncode == 0)
    gm("gm-submit", "f", input=b"x\n")
    first = gm.start(*apart, "gm-work", "f", "--", "sh", "-c", "echo > begun; while ! [ -e go ]; do sleep 0.01; done")
    until((tmp_path / "begun").exists)
    gearmand.kill()
    gearmand.start()
    event, = gm("gm-work", "--until-empty", "f", "--", "cat").records
    assert (event["event"], event["attempts"]) == ("done", 1)
    assert gm("gm-reap").records == []
    job, = gm("gm-reap", "--job-older-than=0", "--kill", "--grace=0").records
    if apart:
        assert job["here"] is False and job["action"] is None
        (tmp_path / "go").touch()
        until(lambda: counted(first) == {"done": 1})


def test_an_idle_worker_costs_nothing(gm, gearmand):
    """CPU time, of all processes of the fleet, over what would be a hundred turns of a busy loop."""
    worker = gm.start("gm-work", "-j2", "f", "--", "cat")
    until(lambda: gearmand.status().get(b"f", (0, 0, 0))[2] == 2)
    fleet = [worker.pid, *children(worker.pid)]
    before, began = cpu_seconds(*fleet), time.monotonic()
    until(lambda: time.monotonic() - began > 1.5)
    assert cpu_seconds(*fleet) - before <= 0.05 * 1.5
