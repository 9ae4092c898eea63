"""gm-reap: what overstays is found and ended, and nothing else is touched."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from pathlib import Path

import pytest
from conftest import ROOT, unprivileged, until
from helpers import children, ended, stat

from libgm.quarantine import processes

pytestmark = pytest.mark.slow


def events(worker):
    return [json.loads(line) for line in worker.out_path.read_bytes().split(b"\n")[:-1]]


def submit(gm, *options):
    gm("gm-submit", "-q", *options, "f", input=b"x\n")


def start(gm, script, *options):
    """A worker whose job runs script; its pid is in the file `begun` then."""
    worker = gm.start("gm-work", *options, "f", "--", "sh", "-c", "echo $PPID >> begun; " + script)
    until(lambda: (gm.home / "begun").exists() and (gm.home / "begun").read_text().endswith("\n"), what="the job has begun")
    return worker, int((gm.home / "begun").read_text())


def test_nothing_overstays(gm, gearmand):
    assert b"no such file" in gm("gm-reap", status=111).err
    gm("gm-work", "--until-empty", "f", "--", "cat")
    result = gm("gm-reap", "--older-than=0", "--job-older-than=0", "--kill")
    assert result.out == result.err == b""


def test_misuse(gm):
    assert b"only one" in gm("gm-reap", "--kill", "--release", status=2).err
    assert b"not a duration" in gm("gm-reap", "--older-than=soon", status=2).err


def test_a_job_that_overstays_is_shown_and_left_alone(gm, gearmand):
    submit(gm, "--unique=long")
    worker, pid = start(gm, "exec sleep 1000")
    assert gm("gm-reap").records == gm("gm-reap", "--job-older-than=1h").records == []
    record, = gm("gm-reap", "--job-older-than=0").records
    assert (record["kind"], record["function"], record["unique"], record["attempts"]) == ("job", "f", "long", 1)
    assert record["here"] is True and record["action"] is None and record["age"] >= 0 and record["handle"].startswith("H:")
    head, row = gm("gm-reap", "--job-older-than=0", "--table").out.split(b"\n")[:2]
    assert head.split()[-1] == b"action" and row.startswith(b"job ")
    assert gearmand.status()[b"f"][1] == 1 and not ended(pid) and events(worker) == []


def test_a_killed_job_is_an_attempt_and_its_worker_goes_on(gm, gearmand):
    submit(gm)
    worker, pid = start(gm, "trap '' TERM; test $GM_ATTEMPT = 2 && exit; sleep 1000; sleep 1000", "--delay=0")
    record, = gm("gm-reap", "--job-older-than=0", "--kill", "--grace=0.1").records
    assert record["action"] == "killed"
    until(lambda: len(events(worker)) == 2)
    hung, done = events(worker)
    assert (hung["event"], hung["reason"], hung["error"], hung["attempts"]) == ("retry", "hung", "hung: ended by gm-reap", 1)
    assert (done["event"], done["attempts"], done["worker"]) == ("done", 2, pid)
    assert gm("gm-reap", "--job-older-than=0").records == []


def test_a_job_that_leaves_in_order_when_killed_is_hung_all_the_same(gm, gearmand):
    submit(gm)
    worker, _ = start(gm, "trap 'echo bye >&2; exit 3' TERM; while :; do sleep 0.02; done", "--tries=1")
    gm("gm-reap", "--job-older-than=0", "--kill")
    until(lambda: events(worker))
    record, = gm("gm-dead").records
    assert (record["reason"], record["exit"]) == ("hung", 3) and record["stderr"].endswith("bye")


def test_a_released_job_is_no_attempt_and_ten_releases_are_the_limit(gm, gearmand):
    submit(gm)
    worker = gm.start("gm-work", "f", "--", "sh", "-c", "echo >> begun; exec sleep 1000")
    for number in range(1, 11):
        until(lambda: (gm.home / "begun").exists() and (gm.home / "begun").read_text().count("\n") == number)
        record, = gm("gm-reap", "--job-older-than=0", "--release").records
        assert (record["kind"], record["action"], record["attempts"]) == ("job", "released", 1)
    until(lambda: len(events(worker)) == 11)
    assert [event["event"] for event in events(worker)] == ["release"] * 10 + ["dead"]
    assert gm("gm-dead").records[0]["error"].startswith("released 10 times")
    assert gm("gm-reap", "--job-older-than=0").records == []


def test_a_hung_worker_is_gone_with_its_job_which_is_retried_elsewhere_and_counted(gm, gearmand):
    submit(gm)
    hung, pid = start(gm, "test $GM_ATTEMPT = 2 && exec cat; sleep 1000 & echo $! > sleeper; "
                      "kill -STOP $PPID; wait", "--delay=0")
    until(lambda: gm("gm-reap", "--older-than=1s").records, what="it is old enough")
    record, = gm("gm-reap", "--older-than=1s", "--kill", "--grace=0.2").records
    other = gm.start("gm-work", "f", "--", "cat")
    assert (record["kind"], record["pid"], record["action"]) == ("worker", pid, "killed")
    assert ended(pid) and ended(int((gm.home / "sleeper").read_text()))
    until(lambda: any(event["event"] == "done" for event in events(other) + events(hung)), what="done by another worker")
    lost, done = sorted(events(other) + events(hung), key=lambda event: event["attempts"])
    assert (lost["event"], lost["reason"], lost["attempts"]) == ("retry", "hung", 1)
    assert (done["event"], done["attempts"]) == ("done", 2) and done["worker"] != pid


STUCK = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from libgm.quarantine import processes
from libgm.quarantine.file import Store
signal.signal(signal.SIGTERM, signal.SIG_IGN)
store = Store(os.environ["GM_QUARANTINE"], create=True)
processes.join(store, "gm-work", b"f", "x:1")
with store.transaction():
    store.execute("UPDATE process SET started = started - 100")
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_worker_that_is_stopped_inside_a_write_is_killed_although_nobody_can_write(gm, gearmand):
    gm("gm-work", "--until-empty", "f", "--", "cat")
    with gm.database() as db:
        db.execute("INSERT INTO process (id, tool, host, started) VALUES (1000, 'x', 'x', 0)")
    stuck = gm.start(sys.executable, "-c", STUCK, ROOT)
    until(lambda: stat(stuck.pid)[0] == "T", what="it is stopped")
    with gm.database(timeout=0) as db, pytest.raises(sqlite3.OperationalError, match="locked"):
        db.execute("BEGIN IMMEDIATE")
    # what it is doing inside is not committed: it is as old as its process
    record = until(lambda: gm("gm-reap", "--older-than=0", "--kill", "--grace=0.1", timeout=30).records)[0]
    assert record["action"] == "killed" and stuck.wait(10) == -signal.SIGKILL
    with gm.database(timeout=0) as db:
        db.execute("BEGIN IMMEDIATE")


def test_what_a_dead_worker_left_is_found_and_ended(gm, gearmand):
    submit(gm)
    worker, pid = start(gm, "echo $$ > job; exec sleep 1000")
    until(lambda: (gm.home / "job").exists() and (gm.home / "job").read_text())
    worker.kill()    # the parent first: it would start another worker, and that would see to it
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(gm("gm-reap").records) == 2, what="start and orphan")
    start_of, orphan = gm("gm-reap").records
    assert (start_of["kind"], start_of["pid"], orphan["kind"]) == ("start", None, "orphan")
    assert orphan["pid"] == int((gm.home / "job").read_text()) and orphan["worker"] == start_of["worker"]
    assert [record["action"] for record in gm("gm-reap", "--kill", "--grace=0.1").records] == [None, "killed"]
    assert ended(orphan["pid"])
    assert [record["kind"] for record in gm("gm-reap").records] == ["start"]   # it counts until the job is seen again
    assert gm("gm-status").records[0]["oldest_start"] is None
    event = gm("gm-work", "--until-empty", "f", "--", "cat").records[-1]
    assert (event["event"], event["attempts"]) == ("done", 2)
    assert gm("gm-reap").records == []


def test_a_dead_worker_s_start_can_be_forgiven(gm, gearmand):
    submit(gm)
    worker, pid = start(gm, "sleep 1000")
    worker.kill()
    os.kill(pid, signal.SIGKILL)
    until(lambda: gm("gm-reap").records)
    assert {record["action"] for record in gm("gm-reap", "--release", "--grace=0.1").records} == {"released"}
    assert gm("gm-reap").records == []
    event, = gm("gm-work", "--until-empty", "f", "--", "cat").records
    assert (event["event"], event["attempts"]) == ("done", 1)


def test_what_runs_for_another_file_of_the_same_name_is_not_touched(gm, gearmand):
    """Two containers that each have their own file at the default path see each other's processes from the host."""
    submit(gm)
    worker, pid = start(gm, "sleep 1000")
    worker.kill()
    os.kill(pid, signal.SIGKILL)
    until(lambda: gm("gm-reap").records)
    with gm.database() as db:
        process, run = db.execute("SELECT process, run FROM start").fetchone()
    innocent = gm.start("sleep", "1000", env={"GM_RUN": f"1-1.{process}.{run}"})
    gm("gm-reap", "--kill", "--grace=0.1")
    assert innocent.poll() is None


def test_another_host_s_workers_are_shown_and_not_touched(gm, gearmand):
    submit(gm)
    worker, pid = start(gm, "exec sleep 1000")
    with gm.database() as db:
        db.execute("UPDATE process SET host = 'elsewhere', started = started - 100")
    found = gm("gm-reap", "--older-than=50", "--job-older-than=0", "--kill").records
    assert {record["kind"] for record in found} == {"worker", "job"}
    assert all(record["host"] == "elsewhere" and not record["here"] and record["action"] is None for record in found)
    assert not ended(pid) and events(worker) == []


def test_what_is_not_ours_to_end_is_said_and_exit_1(gm, gearmand):
    """A worker of another user, and a gm-reap without the right to end it; who is not root has only his own processes."""
    if os.getuid():
        return
    submit(gm)
    gm.start(*unprivileged("gm-work", "-q", "f", "--", "sleep", "1000"))
    until(lambda: gm("gm-reap", "--job-older-than=0", status=None).out, what="the job has begun")
    with gm.database() as db:
        db.execute("UPDATE process SET started = started - 100")
        (pid,), = db.execute("SELECT pid FROM process WHERE tool = 'gm-work'")
    result = gm("setpriv", "--bounding-set=-kill", "gm-reap", "--older-than=50", "--kill", "--grace=0.1", status=1)
    assert b"cannot end process %d: not permitted" % pid in result.err and not ended(pid)


def forge(gm, target):
    """Make the worker's row name another process, as whoever may write the file can."""
    with gm.database() as db:
        db.execute("UPDATE process SET started = started - 100, pid = ?, pid_start = ? WHERE tool = 'gm-work'",
                   (target.pid, processes.start_time(target.pid)))


def test_a_pid_in_the_file_is_not_believed(gm, gearmand):
    submit(gm)
    _, pid = start(gm, "exec sleep 1000")
    victim = gm.start("sleep", "1000")
    forge(gm, victim)
    record, = gm("gm-reap", "--older-than=50", "--kill", "--grace=0.1").records
    assert (record["pid"], record["action"]) == (pid, "killed")
    assert ended(pid) and victim.poll() is None


HOLDER = """
import fcntl, os, signal, sys
fd = os.open(sys.argv[1] + "-alive", os.O_RDWR)
fcntl.lockf(fd, fcntl.LOCK_EX, 1, int(sys.argv[2]))
print("held", flush=True)
signal.pause()
"""


def test_who_forges_a_whole_worker_has_only_his_own_process_ended(gm, gearmand):
    gm("gm-work", "--until-empty", "f", "--", "cat")
    victim = gm.start("sleep", "1000")
    forger = gm.start(sys.executable, "-c", HOLDER, gm.env["GM_QUARANTINE"], "77")
    until(lambda: forger.out_path.read_bytes())
    with gm.database() as db:
        db.execute("INSERT INTO process (id, tool, host, namespace, pid, pid_start, started, function) "
                   "VALUES (77, 'gm-work', ?, ?, ?, ?, 0, 'f')",
                   (os.uname().nodename, processes.namespace(), victim.pid, processes.start_time(victim.pid)))
        db.execute("INSERT INTO start (process, run, identity, function, unique_, attempts, started) "
                   "VALUES (77, 1, x'00', 'f', 'u', 1, 0)")
    gm("gm-reap", "--older-than=50", "--job-older-than=50", "--kill", "--grace=0.1")
    assert forger.wait(10) == -signal.SIGTERM and victim.poll() is None


def test_a_process_of_another_user_is_no_job_whatever_its_environment_says(gm, gearmand):
    """As that of a set-user-ID program that somebody starts; for who is not root all are his own."""
    submit(gm)
    _, pid = start(gm, "exec sleep 1000")
    job, = children(pid)
    mark = Path(f"/proc/{job}/environ").read_bytes().partition(b"GM_RUN=")[2].partition(b"\0")[0].decode()
    env = {"GM_RUN": mark}
    other = gm.start(*unprivileged("sleep", "1000"), env=env) if not os.getuid() else None
    same = gm.start("sleep", "1000", env=env)   # as a child that called setsid
    record, = gm("gm-reap", "--job-older-than=0", "--kill", "--grace=0.1").records
    assert record["action"] == "killed" and ended(job)
    assert same.wait(10) == -signal.SIGTERM and (other is None or other.poll() is None)


@pytest.mark.parametrize("then", ["gone", "replaced"])
def test_without_the_locks_nothing_is_taken_for_dead(gm, gearmand, then):
    submit(gm)
    _, pid = start(gm, "exec sleep 1000")
    job, = children(pid)
    os.unlink(gm.env["GM_QUARANTINE"] + "-alive")
    if then == "gone":
        for how in ("--kill", "--release", "--job-older-than=0"):
            error = gm("gm-reap", how, status=111).err
            assert b"-alive: no such file" in error and b"restart every gm-work" in error and error.count(b"\n") == 1
    else:
        gm("gm-work", "--until-empty", "other", "--", "cat")
        assert gm("gm-reap").records == []
        result = gm("gm-reap", "--kill", "--job-older-than=0", status=1)
        assert b"process %d runs, but holds no lock" % pid in result.err
        assert [record["action"] for record in result.records] == [None]
    assert not ended(job) and not ended(pid)
