"""The loop of gm-work's workers: what is in hand, what goes back, how an end comes, in command mode and in pipe mode."""

from __future__ import annotations

import collections
import json
import mmap
import os
import pty
import resource
import signal
import sqlite3
import sys
import time

import pytest
from conftest import strays, until
from gearman_peers import Relay

pytestmark = pytest.mark.slow

QUICK = '''
import json, os, sys, time
for line in sys.stdin:
    data = json.loads(line)["data"]
    if data == "slow":
        open(f"begun.{os.getpid()}", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.02)
    print('{"ok":true}', flush=True)
'''


@pytest.fixture
def quick(tmp_path):
    """A COMMAND of pipe mode that is quick, but for the payload `slow`, which it does once there is a file `go`."""
    path = tmp_path / "quick.py"
    path.write_text(QUICK)
    return "--pipe", "f", "--", sys.executable, path


def submit(gm, *payloads):
    gm("gm-submit", "-q", "f", input=b"".join(payload.encode() + b"\n" for payload in payloads))


def numbers(count):
    return [str(number) for number in range(count)]


def events(worker):
    return [json.loads(line) for line in worker.out_path.read_bytes().split(b"\n")[:-1]]


def counted(worker):
    return collections.Counter(event["event"] for event in events(worker))


def query(gm, sql, *values):
    with sqlite3.connect(gm.env["GM_QUARANTINE"], timeout=20) as db:
        return db.execute(sql, values).fetchall()


def children(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as found:
        return [int(pid) for pid in found.read().split()]


def in_file(gm, act):
    """Run act(store) in a transaction on the quarantine file."""
    from libgm.quarantine.file import Store
    store = Store(gm.env["GM_QUARANTINE"], create=True)
    try:
        with store.transaction():
            return act(store)
    finally:
        store.close()


# ---- what is in hand

def test_the_hand_follows_the_pace():
    from libgm.worker.pace import MOST, Pace, pace_size
    shared = memoryview(mmap.mmap(-1, pace_size(2)))
    one, other = Pace(shared, 0), Pace(shared, 1)
    assert one.window == 1
    for _ in range(20):
        one.add(0.0005 * 4, 4)
    assert one.window == 10
    for _ in range(30):
        one.looked = 0.0
        one.add(0.01, 1000)
    assert one.window == MOST
    one.add(20.0, 1)
    assert one.window == 1
    for _ in range(60):
        one.looked = 0.0
        one.add(0.01, 1000)
    assert 4 < one.window < MOST // 2, "a long job weighs for ten minutes"
    other.add(0.0001, 1)
    other.looked = 0.0
    other.add(0.0001, 1)
    assert other.window <= 2, "and with all workers"
    for seconds in (0.006, 1.0):
        slow = Pace(memoryview(mmap.mmap(-1, pace_size(1))), 0)
        for _ in range(5):
            slow.add(seconds, 1)
        assert slow.window == 1


def test_a_long_job_that_runs_is_seen_by_the_other_workers():
    from libgm.worker.pace import Pace, pace_size
    shared = memoryview(mmap.mmap(-1, pace_size(2)))
    one, other = Pace(shared, 0), Pace(shared, 1)
    other.add(0.1, 1000)
    one.on(time.monotonic() - 20.0)
    other.looked = 0.0
    other.add(0.0001, 1)
    assert other.mean > 0.01
    one.on(None)
    other.looked = 0.0
    other.add(0.0001, 1)
    assert other.mean < 0.001


@pytest.mark.parametrize("slow, most", [([1000], 64), ([1000, 1500, 2000], 100)], ids=["once", "three times"])
def test_a_long_job_among_quick_ones_keeps_few_waiting(gm, memory_gearmand, quick, tmp_path, slow, most):
    submit(gm, *("slow" if number in slow else "x" for number in range(3000)))
    worker = gm.start("gm-work", f"-j{len(slow) + 1}", *quick)
    until(lambda: len(list(tmp_path.glob("begun.*"))) == len(slow), 40)
    until(lambda: memory_gearmand.waiting(b"f") == 0, 40)
    until(lambda: len(events(worker)) >= 3000 - len(slow) - most, 20, "only the hands of those that are stuck are waiting")
    (tmp_path / "go").touch()
    until(lambda: counted(worker)["done"] == 3000)


def test_a_long_job_in_command_mode_keeps_next_to_none_waiting(gm, memory_gearmand, tmp_path):
    submit(gm, *("slow" if number == 50 else "x" for number in range(200)))
    worker = gm.start("gm-work", "-j2", "f", "--", "sh", "-c",
                      "read n; if test $n = slow; then while ! [ -e go ]; do sleep 0.05; done; fi; sleep 0.001")
    until(lambda: memory_gearmand.waiting(b"f") == 0, 40)
    until(lambda: len(events(worker)) >= 199 - 5, 20)
    (tmp_path / "go").touch()
    until(lambda: counted(worker)["done"] == 200)


@pytest.mark.parametrize("mode", ["pipe", "command"])
def test_what_was_not_begun_goes_back_uncounted_at_the_end(gm, gearmand, quick, tmp_path, mode):
    submit(gm, *(["x"] * 400), "slow", *(["x"] * 400))
    script = "read n; test $n != slow || { touch begun.1; exec sleep 1000; }"
    command = quick if mode == "pipe" else ("f", "--", "sh", "-c", script)
    worker = gm.start("gm-work", "--grace=1", *command)
    until(lambda: list(tmp_path.glob("begun.*")), 60)
    worker.terminate()
    worker.terminate()
    assert worker.wait(30) == 0
    done = counted(worker)["done"]
    until(lambda: gearmand.waiting(b"f") == 801 - done)
    (tmp_path / "go").touch()
    assert {event["attempts"] for event in gm("gm-work", "--until-empty", "--pipe", *quick[1:]).records} == {1}


# ---- pauses and counts

def test_a_paused_function_is_not_worked_until_it_is_resumed(gm, gearmand, quick):
    from libgm.quarantine import pauses
    worker = gm.start("gm-work", "-j2", *quick)
    submit(gm, "x")
    until(lambda: len(events(worker)) == 1)
    in_file(gm, lambda store: pauses.begin(store, b"f*", time.time(), None, "new disk", "root"))
    time_paused = time.monotonic()
    until(lambda: time.monotonic() > time_paused + 2.2)
    submit(gm, *numbers(20))
    result = gm("gm-work", "--until-empty", *quick)
    assert result.records == [] and b"f: paused by root: new disk" in result.err
    assert len(events(worker)) == 1 and gearmand.waiting(b"f") == 20
    in_file(gm, lambda store: pauses.end(store, b"f*"))
    until(lambda: len(events(worker)) == 21)


def test_delayed_retries_of_a_paused_function_wait(gm, gearmand):
    from libgm.quarantine import pauses
    submit(gm, "x")
    gm("gm-work", "--until-empty", "--delay=0.1", "f", "--", "false")
    in_file(gm, lambda store: pauses.begin(store, b"f", time.time(), time.time() + 3, None, None))
    worker = gm.start("gm-work", "other", "--", "cat")
    until(lambda: gearmand.status().get(b"other", (0, 0, 0))[2])
    assert gearmand.waiting(b"f") == 0 and len(gm("gm-dead", "--delayed").records) == 1
    until(lambda: gearmand.waiting(b"f") == 1, what="the pause is over by its time")
    assert worker.poll() is None


def test_runs_are_counted_per_day_whatever_quiet_says(gm, gearmand):
    from libgm.quarantine import tallies
    submit(gm, *numbers(30))
    gm("gm-work", "-q", "--until-empty", "--brake=0", "--tries=1", "f", "--", "sh", "-c", "read n; test $n -gt 9")
    (function, day, done, failed), = in_file(gm, tallies.days)
    assert (function, done, failed) == (b"f", 20, 10) and day[:2] == "20"


# ---- killers, and machines that go down

def test_a_machine_that_went_down_makes_workers_careful_for_ten_jobs(gm, gearmand):
    gm("gm-work", "--until-empty", "f", "--", "cat")
    query(gm, "INSERT INTO process (tool, host, started, boot, seen) VALUES ('gm-work', 'h', 1, 'another boot', 0)")
    submit(gm, *numbers(4))
    gm("gm-work", "--until-empty", "-q", "f", "--", "cat")
    assert query(gm, "SELECT seen FROM process WHERE boot = 'another boot'") == [(0,)]
    submit(gm, *numbers(12))
    gm("gm-work", "--until-empty", "-q", "f", "--", "cat")
    assert query(gm, "SELECT 1 FROM process WHERE boot = 'another boot' AND NOT seen") == []


def test_careful_starts_are_on_disk_and_one_is_in_hand():
    import types

    from libgm.worker.settings import Settings
    from libgm.worker.settle import Settler
    settler = Settler(Settings(b"f", ["true"], {}, [], "", ""), None, None)
    wanted = []

    class Recorder:
        process, path = 1, "x"

        def transaction(self, durable=True):
            wanted.append(durable)
            raise InterruptedError
    settler.store, settler.careful = Recorder(), True
    for coming in ([types.SimpleNamespace(run=1)], []):
        with pytest.raises(InterruptedError):
            settler.turn_over([], coming)
    assert wanted == [True, False]


def test_one_suspect_runs_at_a_time_beside_others(gm, gearmand, tmp_path):
    """Both killed a worker, perhaps; which one did is found out by running them one after the other."""
    script = ('read n; case $n in x*) exit 0;; esac; if test $GM_ATTEMPT = 1; then echo >>first; '
              'while test $(wc -l <first) -lt 2; do sleep 0.01; done; kill -9 $PPID; exec sleep 1000; fi; '
              'echo begin $n >>order; sleep 0.4; echo end $n >>order')
    submit(gm, "a", "b")
    worker = gm.start("gm-work", "-j3", "--delay=0", "f", "--", "sh", "-c", script)
    until(lambda: (tmp_path / "order").exists(), 40)
    submit(gm, *(f"x{number}" for number in range(20)))
    until(lambda: counted(worker)["done"] == 22, 40)
    order = [line.split() for line in (tmp_path / "order").read_text().splitlines()]
    assert [what for what, _ in order] == ["begin", "end"] * 2 and order[0][1] == order[1][1] != order[2][1]


def start_of_a_dead_worker(gm, unique, payload, **columns):
    """The start that a worker which died left of a job."""
    from libgm import job
    row = {"process": 999, "run": 1, "identity": job.identity(b"f", unique, payload), "function": "f", "unique_": unique.decode(),
           "attempts": 1, "started": time.time() - 9, "key": "0123456789ab", **columns}
    query(gm, f"INSERT INTO start ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", *row.values())


def test_a_job_that_was_being_sent_again_is_sent_and_not_run(gm, gearmand):
    from libgm import wire
    gm("gm-work", "--until-empty", "f", "--", "cat")
    header = wire.Header(key=0x123456789ab, attempts=1, sends=1, first_failed=1000)
    unique, _ = wire.pack(b"f", b"one", header, b"x")
    start_of_a_dead_worker(gm, b"one", b"x", next=unique)
    gm("gm-submit", "-q", "-u", "one", "f", input=b"x\n")
    first, second = gm("gm-work", "--until-empty", "--delay=0", "f", "--", "cat").records
    assert (first["event"], first["attempts"], first["unique"]) == ("retry", 1, "one")
    assert (second["event"], second["attempts"], second["unique"]) == ("done", 2, "one")
    assert query(gm, "SELECT * FROM start") == []


@pytest.mark.parametrize("settled", [0, 1])
def test_the_key_of_a_settled_start_is_not_taken(gm, gearmand, settled):
    gm("gm-work", "--until-empty", "f", "--", "cat")
    start_of_a_dead_worker(gm, b"one", b"x", settled=settled)
    gm("gm-submit", "-q", "-u", "one", "f", input=b"x\n")
    gm("gm-work", "--until-empty", "--tries=2", "--brake=0", "f", "--", "false")
    (key, attempts, state), = query(gm, "SELECT key, attempts, state FROM job")
    assert (key == "0123456789ab") == (not settled)
    assert (attempts, state) == ((1, "delayed") if settled else (2, "dead"))


# ---- ends

@pytest.mark.parametrize("mode", ["pipe", "command"])
def test_a_file_that_is_replaced_ends_gm_work_and_its_jobs_stay(gm, gearmand, quick, tmp_path, mode):
    submit(gm, "x")
    script = "read n; while test $n = slow && ! [ -e go ]; do sleep 0.05; done; touch begun.1; test $n != slow"
    command = quick if mode == "pipe" else ("f", "--", "sh", "-c", script)
    worker = gm.start("gm-work", "--tries=1", *command)
    until(lambda: len(events(worker)) == 1)
    os.rename(gm.env["GM_QUARANTINE"], tmp_path / "elsewhere.db")
    submit(gm, "slow")
    (tmp_path / "go").touch()
    assert worker.wait(30) == 111
    assert worker.err_path.read_text().count("replaced while in use: stop all") == 1
    assert len(events(worker)) == 1 and gearmand.waiting(b"f") == 1


def test_a_full_disk_ends_until_empty(gm, gearmand):
    gm("gm-work", "--until-empty", "f", "--", "cat")
    submit(gm, "x")
    result = gm("prlimit", "--fsize=4096", "gm-work", "--until-empty", "f", "--", "cat", status=111)
    assert result.records == [] and b"quarantine.db" in result.err and gearmand.waiting(b"f") == 1


def test_a_disk_that_fills_up_under_a_job_ends_until_empty_and_counts_nothing(gm, gearmand, tmp_path):
    submit(gm, "x")
    worker = gm.start("gm-work", "--until-empty", "--tries=1", "f", "--", "sh", "-c",
                      "echo > begun; while ! [ -e go ]; do sleep 0.01; done; exit 1")
    until((tmp_path / "begun").exists)
    for pid in children(worker):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    (tmp_path / "go").touch()
    assert worker.wait(40) == 111
    until(lambda: gearmand.waiting(b"f") == 1)
    event, = gm("gm-work", "--until-empty", "f", "--", "cat").records
    assert (event["event"], event["attempts"]) == ("done", 1)


def test_a_terminal_that_is_closed_ends_it(gm, gearmand):
    env = {name: value for name, value in gm.env.items() if value is not None}
    pid, terminal = pty.fork()
    if not pid:
        os.execvpe("gm-work", ["gm-work", "-q", "f", "--", "cat"], env)
    try:
        until(lambda: gearmand.status().get(b"f", (0, 0, 0))[2])
        os.kill(pid, signal.SIGHUP)   # the terminal is there: the workers are replaced
        submit(gm, "x")
        until(lambda: gearmand.status()[b"f"] == (0, 0, 1))
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.close(terminal)
        terminal = -1
        until(lambda: os.waitpid(pid, os.WNOHANG) != (0, 0))
    finally:
        if terminal >= 0:
            os.close(terminal)
    until(lambda: set(strays(gm.home)) == {gearmand.process.pid})


def test_an_answer_on_a_slow_line_is_sent_to_its_end_before_the_worker_ends(gm, memory_gearmand):
    relay = Relay(gm, memory_gearmand.port)
    relay.set("slow")
    submit(gm, "x")
    result = gm("gm-work", "--until-empty", "--max-jobs=1", "-s", relay.server, "f", "--", "head", "-c", "3000000", "/dev/zero",
                env={"GM_TIMEOUT": "0.5"})
    until(lambda: memory_gearmand.status()[b"f"][0] == 0)
    assert [event["event"] for event in result.records] == ["done"]


def test_a_command_that_is_gone_for_a_while_fails_no_job(gm, gearmand, tmp_path):
    """As while a new version of it is installed."""
    command = tmp_path / "command"
    command.write_text("#!/bin/sh\nexit 0\n")
    command.chmod(0o755)
    worker = gm.start("gm-work", "--tries=1", "f", "--", command)
    submit(gm, "x")
    until(lambda: counted(worker)["done"] == 1)
    command.rename(tmp_path / "away")
    submit(gm, "y", "z")
    until(lambda: counted(worker)["release"] >= 2, 30)
    (tmp_path / "away").rename(command)
    until(lambda: counted(worker)["done"] == 3, 30)
    assert counted(worker)["dead"] == 0 and b"cannot run: no such file" in worker.err_path.read_bytes()


# ---- what a job leaves, and tells

@pytest.mark.parametrize("mode", ["pipe", "command"])
def test_what_left_the_group_of_a_job_is_ended_with_it(gm, gearmand, tmp_path, mode):
    submit(gm, "x")
    script = "setsid sh -c 'trap \"\" HUP; echo $$ >left; exec sleep 1000' & while ! [ -s left ]; do sleep 0.01; done; " + \
        ("read job; " if mode == "pipe" else "") + "sleep 1000"
    gm("gm-work", "--until-empty", "--tries=1", "-t0.3", "--grace=0.1", *(["--pipe"] if mode == "pipe" else []), "f", "--",
       "sh", "-c", script)
    left = int((tmp_path / "left").read_text())
    until(lambda: left not in strays(gm.home))


def strict(line):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON: {line!r}")
    return json.loads(line, parse_constant=refuse)


def test_events_are_json_whatever_a_job_tells(gm, gearmand):
    submit(gm, "x")
    result = gm("gm-work", "--until-empty", "f", "--", "sh", "-c", "echo '{\"a\":NaN,\"b\":[-Infinity,1e400],\"c\":1.5}' >&3")
    assert strict(result.out)["extra"] == {"a": None, "b": [None, None], "c": 1.5}
    submit(gm, "x")
    result = gm("gm-work", "--until-empty", "--pipe", "f", "--", "sh", "-c",
                "read job; echo '{\"ok\":true,\"extra\":{\"a\":1e400,\"c\":1.5}}'; read job")
    assert strict(result.out)["extra"] == {"a": None, "c": 1.5}


@pytest.mark.parametrize("mode", ["pipe", "command"])
def test_a_job_has_all_signals_at_their_defaults(gm, gearmand, mode):
    """Python ignores SIGPIPE and SIGXFSZ from its start; COMMAND has them as a shell's would."""
    submit(gm, "x")
    ignored = "$(grep SigIgn /proc/$$/status | cut -f2)"
    script = f"""read job; printf '{{"ok":true,"extra":{{"ignored":"%s"}}}}\\n' {ignored}; read job""" if mode == "pipe" else \
        f"""printf '{{"ignored":"%s"}}\\n' {ignored} >&3"""
    event, = gm("gm-work", "--until-empty", *["--pipe"] * (mode == "pipe"), "f", "--", "sh", "-c", script).records
    assert int(event["extra"]["ignored"], 16) & (1 << 31) - 1 == 0   # above are real-time ones of the C library's own
