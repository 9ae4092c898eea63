"""The brake (gm-delivery(7), rule 8): an outage pushes no job into quarantine, a run of bad jobs holds up no good one."""

from __future__ import annotations

import collections
import json
import sqlite3
import time
import types

import pytest
from conftest import until

pytestmark = pytest.mark.slow

SERVICE = "test -e up || { echo no database >&2; exit 1; }"
PICKY = 'n=$(cat); case $n in bad*) echo "corrupt $n" >&2; exit 1;; esac'


def submit(gm, *payloads, function="f"):
    gm("gm-submit", "-q", function, input=b"".join(payload.encode() + b"\n" for payload in payloads))


def events(worker):
    return [json.loads(line) for line in worker.out_path.read_bytes().split(b"\n")[:-1]]


def counted(worker):
    return collections.Counter(event["event"] for event in events(worker))


def dead(gm):
    return [record["data"] for record in gm("gm-dead").records]


def query(gm, sql, *values):
    with sqlite3.connect(gm.env["GM_QUARANTINE"], timeout=20) as db:
        return db.execute(sql, values).fetchall()


def age_outage(gm, seconds):
    """Let the outage have begun that much earlier, and what is held be due."""
    query(gm, "UPDATE brake SET since = since - ?, next_start = 0", seconds)
    query(gm, "UPDATE job SET due = 0 WHERE state = 'delayed'")


def test_a_run_of_bad_jobs_holds_up_no_good_ones_and_dies(gm, gearmand):
    bad = [f"bad{number}" for number in range(60)]
    submit(gm, *bad, *(f"good{number}" for number in range(10)))
    worker = gm.start("gm-work", "--delay=0.2", "f", "--", "sh", "-c", PICKY)
    until(lambda: counted(worker)["done"] == 10, 30)
    assert counted(worker)["hold"] == 55 and dead(gm) == []
    submit(gm, "good fresh")
    until(lambda: counted(worker)["dead"] == 60, 60)
    assert counted(worker)["done"] == 11 and sorted(dead(gm)) == sorted(bad)
    assert {event["attempts"] for event in events(worker) if event["event"] == "dead"} == {3}
    assert counted(worker)["hold"] == 55, "they are known to be bad: held once"


@pytest.mark.parametrize("options", [["-j2"], ["-j2", "--pipe"], ["--delay=0"]], ids=" ".join)
def test_an_outage_pushes_no_job_into_quarantine(gm, gearmand, tmp_path, options):
    submit(gm, *map(str, range(40)))
    command = ["sh", "-c", SERVICE] if "--pipe" not in options else ["sh", "-c", (
        'while read -r job; do if [ -e up ]; then echo \'{"ok":true}\'; else '
        'echo \'{"ok":false,"error":"no database","verdict":"retry"}\'; fi; done')]
    worker = gm.start("gm-work", "--tries=2", "--delay=1", *options, "f", "--", *command)
    until(lambda: counted(worker)["hold"] > 40, 40, "each was held, and some again")
    assert len(query(gm, "SELECT since FROM brake WHERE since IS NOT NULL")) == 1
    assert counted(worker)["dead"] == 0
    (tmp_path / "up").touch()
    until(lambda: counted(worker)["done"] == 40, 30)
    until(lambda: gearmand.status()[b"f"][0] == 0)
    assert dead(gm) == [] and gm("gm-dead", "--delayed").records == []
    assert query(gm, "SELECT failed, since FROM brake") == [("[]", None)]
    said = worker.err_path.read_text()
    assert said.count("assuming an outage") == 1 and "--brake=0" in said and "the outage is over" in said


@pytest.mark.slow(10)
def test_the_brake_outlives_gm_work_as_cron_runs_it(gm, gearmand, tmp_path):
    """An hour of outage, and a gm-work --until-empty every few minutes."""
    submit(gm, *map(str, range(20)))
    work = ("gm-work", "--until-empty", "--tries=3", "f", "--", "sh", "-c", SERVICE)
    gm(*work)
    for _ in range(4):
        age_outage(gm, 600)
        found = collections.Counter(event["event"] for event in gm(*work).records)
        assert set(found) == {"hold"}
    (tmp_path / "up").touch()
    age_outage(gm, 600)
    gm(*work)
    done = gm(*work)   # what was held is due since the first success
    assert dead(gm) == [] and gm("gm-dead", "--delayed").records == [], done


def test_after_two_hours_failures_count_again(gm, gearmand):
    submit(gm, *map(str, range(8)))
    work = ("gm-work", "--until-empty", "--tries=2", "f", "--", "false")
    gm(*work)
    assert query(gm, "SELECT count(*) FROM job WHERE holds = 1 AND attempts = 0 AND held IS NOT NULL") == [(3,)]
    age_outage(gm, 7100)
    assert {event["event"] for event in gm(*work).records} == {"hold"}
    age_outage(gm, 110)
    assert collections.Counter(event["event"] for event in gm(*work).records) == {"dead": 5, "retry": 3}
    assert len(dead(gm)) == 5


def test_without_a_brake_every_failure_counts(gm, gearmand):
    submit(gm, *map(str, range(8)))
    result = gm("gm-work", "--until-empty", "--tries=2", "--delay=0", "--brake=0", "f", "--", "false")
    assert collections.Counter(event["event"] for event in result.records) == {"retry": 8, "dead": 8}
    assert b"outage" not in result.err and query(gm, "SELECT * FROM brake") == []


@pytest.mark.parametrize("status, event", [(65, "dead"), (4, "drop")])
def test_what_a_job_judged_itself_neither_counts_nor_ends_an_outage(gm, gearmand, status, event):
    submit(gm, *map(str, range(12)))
    result = gm("gm-work", "--until-empty", "--brake=3", "--exit=4=drop", "f", "--", "sh", "-c", f"exit {status}")
    assert {record["event"] for record in result.records} == {event} and b"outage" not in result.err
    gm("gm-submit", "-q", "f", input=b"a\nb\nc\n")
    gm("gm-work", "--until-empty", "--brake=3", "f", "--", "false")
    before, = query(gm, "SELECT since FROM brake")
    gm("gm-submit", "-q", "f", input=b"d\n")
    gm("gm-work", "--until-empty", "--brake=3", "--exit=4=drop", "f", "--", "sh", "-c", f"exit {status}")
    assert before[0] and query(gm, "SELECT since FROM brake") == [before]


def test_one_job_that_fails_again_and_again_is_no_row(gm, gearmand):
    submit(gm, "x")
    result = gm("gm-work", "--until-empty", "--tries=9", "--delay=0", "f", "--", "false")
    assert collections.Counter(event["event"] for event in result.records) == {"retry": 8, "dead": 1}


def test_a_success_between_two_failures_tells_a_bad_job(gm, gearmand):
    submit(gm, "bad", function="f")
    gm("gm-work", "--until-empty", "--delay=1h", "f", "--", "false")
    query(gm, "UPDATE job SET first_failed = first_failed - 60, last_failed = last_failed - 60, due = 0")
    submit(gm, "good")
    work = ("gm-work", "--until-empty", "--brake=1", "--delay=1h", "f", "--", "sh", "-c", PICKY)
    gm(*work)
    assert query(gm, "SELECT attempts, known_bad FROM job") == [(2, 1)]
    assert query(gm, "SELECT failed, since FROM brake") == [("[]", None)], "a job that is known to be bad begins no outage"
    query(gm, "UPDATE brake SET since = 1e12, failed = '[\"0123456789ab\"]'")
    query(gm, "UPDATE job SET due = 0")
    event, = gm(*work).records
    assert (event["event"], event["attempts"]) == ("dead", 3), "nor is it held in one"


def test_in_an_outage_starts_are_spaced_over_all_workers(gm, gearmand, tmp_path):
    submit(gm, *map(str, range(6)))
    worker = gm.start("gm-work", "-j4", "--delay=60", "f", "--", "sh", "-c", "date +%s.%N >>starts; exit 1")
    until(lambda: counted(worker)["hold"])
    query(gm, "UPDATE brake SET since = since - 60")
    began = time.time()
    submit(gm, *map(str, range(6, 60)))
    until(lambda: counted(worker)["hold"] >= 30, 40)
    starts = [float(line) for line in (tmp_path / "starts").read_text().split() if float(line) > began + 0.5]
    assert len(starts) / (starts[-1] - starts[0]) < 14, "ten a second"
    assert gearmand.status()[b"f"][1] <= 8, "the hand of each worker is one"


def test_the_first_holds_are_told_one_by_one_and_the_others_summed_up(capfd):
    from libgm.worker.events import FIRST, Outage
    outage = Outage(types.SimpleNamespace(function=b"f", brake=5))
    hold = b'{"event":"hold","handle":"H:1","error":"no database","extra":{"event":"hold"}}\n'
    outage.take(hold * 3)
    outage.take(hold * 100)
    assert outage.due() is not None
    outage.tell()
    assert outage.due() is None
    outage.take(b'{"event":"retry","extra":{"event":"done"}}\n')
    outage.take(b'{"event":"done"}\n')
    said = capfd.readouterr().err.splitlines()
    assert sum(line.endswith("H:1: no database: held") for line in said) == FIRST
    assert said[-2].endswith(f"{103 - FIRST} more failures held, the last: no database")
    assert "the outage is over" in said[-1] and len(said) == FIRST + 3
