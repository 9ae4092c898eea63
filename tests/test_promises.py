"""CAVEATS of gearmang(7): each sentence has its test. PROMISES is the table; the tests that no other file has follow."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest
from conftest import ROOT, until
from helpers import children

pytestmark = pytest.mark.slow

ADVICE = ()   # what to do, which promises nothing of its own

# How a sentence begins -> the tests that show that it is so
PROMISES = {
    "A job is acknowledged only after its retry or its death is on disk": (
        "test_chaos.py::test_nothing_is_lost_whatever_breaks", "test_model.py::TestDelivery",
        "test_job_of_death.py::test_without_room_in_the_file_jobs_are_not_acknowledged_and_go_on_when_there_is"),
    "Every step can be interrupted": ("test_chaos.py::test_nothing_is_lost_whatever_breaks", "test_model.py::TestDelivery"),
    "It can run twice when": ("test_chaos.py::test_where_nothing_breaks_nothing_is_done_twice",),
    "a worker or a server dies between": (
        "test_promises.py::test_a_job_runs_twice_where_its_worker_dies_before_the_acknowledgement",),
    "a server is lost while": ("test_gm_submit.py::test_a_server_killed_in_mid_stream_loses_nothing_that_was_acknowledged",),
    "gm-requeue is killed half-way": ("test_gm_requeue.py::test_killed_at_twenty_points_it_loses_nothing",),
    "gm-reap ends it": ("test_gm_reap.py::test_a_killed_job_is_an_attempt_and_its_worker_goes_on",),
    "So a command must be safe to run again": ADVICE,
    "Use a new file each time": ADVICE,
    "Attempts that killed their worker": (
        "test_promises.py::test_a_killer_gets_its_tries_on_each_machine",
        "test_promises.py::test_a_delayed_retry_waits_on_the_machine_where_the_job_failed"),
    "Put it on a volume": ADVICE,
    "On several machines with a file each": ("test_promises.py::test_a_killer_gets_its_tries_on_each_machine",),
    "Delayed jobs wait on the machine": (
        "test_promises.py::test_a_delayed_retry_waits_on_the_machine_where_the_job_failed",),
    "Fewer than 5 different jobs": ("test_promises.py::test_four_different_jobs_are_no_outage",),
    "An outage of only some jobs": ("test_promises.py::test_an_outage_of_some_jobs_looks_like_bad_jobs",),
    "An outage of over two hours": ("test_brake.py::test_after_two_hours_failures_count_again",),
    "In each case list the causes": ADVICE,
    "gearmand keeps its queue in memory": ("test_promises.py::test_a_gearmand_without_a_store_takes_its_queue_along",
                                           "test_gm_server.py::test_jobs_survive_kill_9"),
    "Without a store, a gearmand that dies": ("test_promises.py::test_a_gearmand_without_a_store_takes_its_queue_along",),
    "Foreground jobs": ("test_promises.py::test_a_job_that_is_waited_for_is_in_no_store",),
    "gearmand merges a job": ("test_promises.py::test_gearmand_merges_equal_uniques_and_drops_the_new_payload",),
    "An empty payload": ("test_gm_submit.py::test_an_empty_payload_is_refused",
                         "test_gm_server.py::test_store_with_an_empty_payload_starts_again"),
    "With --job-retries": ("test_promises.py::test_job_retries_deletes_a_job_without_a_trace",
                           "test_gm_server.py::test_options_that_lose_jobs_or_are_its_own_are_refused"),
    "Never use it": ADVICE,
    "A worker that lost its network": ("test_promises.py::test_a_silent_worker_holds_its_job",),
    "The exit status of a pipe": ("test_promises.py::test_a_failure_inside_a_pipe_goes_unnoticed_without_pipefail",),
    "a failure of decode goes unnoticed": ("test_promises.py::test_a_failure_inside_a_pipe_goes_unnoticed_without_pipefail",),
    "gm-drop removes for good": ("test_promises.py::test_a_dropped_payload_is_gone",),
    "gm-history keeps who": ("test_promises.py::test_a_dropped_payload_is_gone",
                             "test_gm_drop.py::test_drop_prints_what_it_removed_and_writes_it_down"),
    "Write the records into a file first": ("test_gm_drop.py::test_archive_then_remove",),
    "gm-bury brings the jobs back": ("test_gm_bury.py::test_what_was_dropped_comes_back",),
}


def sentences() -> list[str]:
    """The sentences of CAVEATS, without its headings and displays."""
    source = (ROOT / "man/gearmang.7").read_text(encoding="utf-8").partition(".Sh CAVEATS\n")[2].partition("\n.Sh")[0]
    source = re.sub(r"^\.Bd.*?^\.Ed$", "", source, flags=re.M | re.S)
    source = re.sub(r"^\.(Ss|Pp|It|Bl|El).*$", "\n", source, flags=re.M)
    source = re.sub(r"^\.Xr (\S+) \d ?(.*)$", r"\1\2", source, flags=re.M)
    source = re.sub(r"^\.Fl -(\S+) ?(.*)$", r"--\1\2", source, flags=re.M)
    source = re.sub(r"^\.\w\w ", "", source, flags=re.M).replace(r"\&", "").replace(r"\(aq", "'")
    found = []
    for paragraph in re.split(r"\n\s*\n", source):
        words = " ".join(paragraph.split())
        found += [part for part in re.split(r"(?<=[.:])\s+(?=[A-Z]|gearmand |gm-)", words) if len(part.split()) > 2]
    return found


def test_every_sentence_of_the_caveats_has_its_test():
    told = [sentence for sentence in sentences() if not any(sentence.startswith(begin) for begin in PROMISES)]
    assert len(sentences()) > 10 and not told, "name the test that shows it, in PROMISES"


def test_every_test_that_is_named_is_there():
    for tests in PROMISES.values():
        for name in tests:
            file, _, test = name.partition("::")
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^(def|class) {test}\b|^{test} =", source, flags=re.M), name


# ---- the tests


def submit(gm, function: str, *payloads: str) -> None:
    gm("gm-submit", "-q", function, input="".join(f"{payload}\n" for payload in payloads).encode())


def test_a_job_runs_twice_where_its_worker_dies_before_the_acknowledgement(gm, gearmand):
    """The command has ended; the worker is held at the file by a lock, and dies there."""
    submit(gm, "f", "x")
    worker = gm.start("gm-work", "--delay=0", "f", "--", "sh", "-c",
                      "echo x >>begun; while ! [ -e go ]; do sleep 0.02; done; echo x >>ended")
    until((gm.home / "begun").exists)
    with gm.database(isolation_level=None) as db:
        db.execute("BEGIN IMMEDIATE")
        (gm.home / "go").touch()
        until((gm.home / "ended").exists)
        for pid in children(worker.pid):
            os.kill(pid, signal.SIGKILL)
    until(lambda: worker.out_path.read_bytes().count(b'"done"') == 1)
    until(lambda: gearmand.status()[b"f"][0] == 0)
    assert (gm.home / "ended").read_text() == "x\nx\n"


def test_a_killer_gets_its_tries_on_each_machine(gm, gearmand):
    submit(gm, "f", "killer")
    script = "echo x >>begun; kill -KILL $PPID; exec sleep 100"
    here = gm.start("gm-work", "--quarantine=a.db", "--tries=2", "f", "--", "sh", "-c", "echo x >>begun; exec sleep 100")
    until((gm.home / "begun").exists)
    for pid in [here.pid, *children(here.pid)]:
        os.kill(pid, signal.SIGKILL)   # this machine goes with its first run
    gm.start("gm-work", "--quarantine=b.db", "--tries=2", "f", "--", "sh", "-c", script)
    until(lambda: gm("gm-dead", "--quarantine=b.db", status=None).out, timeout=40)
    assert (gm.home / "begun").read_text().count("x") == 3   # once here, and all two times there


def test_a_delayed_retry_waits_on_the_machine_where_the_job_failed(gm, gearmand):
    submit(gm, "f", "x")
    gm("gm-work", "--until-empty", "--quarantine=a.db", "--delay=1h", "-q", "f", "--", "false")
    with gm.database(gm.home / "a.db") as db:
        db.execute("UPDATE job SET due = 0")
    assert gm("gm-work", "--until-empty", "--quarantine=b.db", "f", "--", "true").records == []
    assert gearmand.status().get(b"f", (0,))[0] == 0 and len(gm("gm-dead", "--delayed", "--quarantine=a.db").records) == 1
    event, = gm("gm-work", "--until-empty", "--quarantine=a.db", "f", "--", "true").records
    assert event["event"] == "done"


def failing_odd(gm, *options: str) -> None:
    """A command that fails on odd numbers; each failure counts, and the second is the last."""
    gm("gm-work", "--until-empty", "--tries=2", "-q", *options, "f", "--", "sh", "-c", "read n; exit $((n % 2))")


def died(gm) -> dict[str, int]:
    return {job["data"]: job["attempts"] for job in gm("gm-dead").records}


def test_four_different_jobs_are_no_outage(gm, gearmand):
    submit(gm, "f", "1", "3", "5", "7")
    failing_odd(gm, "--delay=0")
    assert died(gm) == dict.fromkeys("1357", 2)


def test_an_outage_of_some_jobs_looks_like_bad_jobs(gm, gearmand):
    payloads = [str(number) for number in range(1, 21)]
    submit(gm, "f", *payloads)
    failing_odd(gm, "--delay=1h")
    with gm.database() as db:
        db.execute("UPDATE job SET due = 0, first_failed = first_failed - 60")
    failing_odd(gm)
    assert died(gm) == dict.fromkeys(payloads[::2], 2)


def test_a_gearmand_without_a_store_takes_its_queue_along(gm, memory_gearmand):
    submit(gm, "f", "x", "y")
    gm("gm-work", "--until-empty", "--max-jobs=1", "--tries=1", "-q", "f", "--", "false")
    until(lambda: memory_gearmand.waiting(b"f") in (0, 1))
    for record in gm("gm-dead").records:
        gm("gm-requeue", record["id"])
    assert memory_gearmand.waiting(b"f") >= 1
    memory_gearmand.kill()
    memory_gearmand.start()
    assert memory_gearmand.status() == {} and gm("gm-dead").records == []   # the requeued job is gone with it


def test_a_job_that_is_waited_for_is_in_no_store(gm, gearmand):
    client = gm.start("gm-submit", "--wait", "f", stdin=subprocess.PIPE)
    client.stdin.write(b"x\n")
    client.stdin.close()
    until(lambda: gearmand.waiting(b"f"))
    assert gm("gm-salvage", gearmand.store).records == []


def test_gearmand_merges_equal_uniques_and_drops_the_new_payload(gm, gearmand):
    handles = [gm("gm-submit", "--unique=same", "f", input=payload).records[0]["handle"] for payload in (b"first\n", b"second\n")]
    assert handles[0] == handles[1] and gearmand.waiting(b"f") == 1
    gm("gm-work", "--until-empty", "f", "--", "sh", "-c", "cat >>seen")
    assert (gm.home / "seen").read_text() == "first"


def test_job_retries_deletes_a_job_without_a_trace(gm, new_gearmand):
    server = new_gearmand(None, "--job-retries=1")
    gm.env["GM_SERVERS"] = server.server
    submit(gm, "f", "x")
    gm.start("gm-work", "--tries=9", "f", "--", "sh", "-c", "echo x >>begun; kill -KILL $PPID; exec sleep 100")
    until(lambda: (gm.home / "begun").exists() and server.status()[b"f"][0] == 0)
    assert gm("gm-dead").records == []


def test_a_silent_worker_holds_its_job(gm, gearmand):
    submit(gm, "f", "x")
    silent = gm.start("gm-work", "f", "--", "sh", "-c", "touch begun; exec sleep 100")
    until((gm.home / "begun").exists)
    pids = children(silent.pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)   # its connection stays open, and says nothing any more
    assert gm("gm-work", "--until-empty", "f", "--", "true").records == [] and gearmand.status()[b"f"][1] == 1
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    silent.kill()
    until(lambda: gearmand.waiting(b"f") == 1)


@pytest.mark.parametrize("shell, event", [(("sh", "-c"), "done"), (("bash", "-o", "pipefail", "-c"), "retry")])
def test_a_failure_inside_a_pipe_goes_unnoticed_without_pipefail(gm, gearmand, shell, event):
    submit(gm, "f", "x")
    assert gm("gm-work", "--until-empty", "f", "--", *shell, "false | cat").records[0]["event"] == event


def test_a_dropped_payload_is_gone(gm, gearmand):
    submit(gm, "f", "a secret payload")
    gm("gm-work", "--until-empty", "--tries=1", "-q", "f", "--", "false")
    gm("gm-drop", "-q", "1")
    said = gm("gm-history")
    assert said.records[0]["function"] == "f" and b"secret" not in said.out
    assert gm("gm-dead", "1", status=1).out == b""
