"""What waited when gearmang was upgraded is worked, retried and counted on: fixtures of earlier versions (tests/fixtures)."""

from __future__ import annotations

import base64
import sqlite3

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

FIXTURES = ROOT / "tests/fixtures"
FIRST_FAILED = "2026-11-25T22:51:0"   # of the fixtures' jobs, but for the last digit of the second

# A COMMAND of gm-work: it appends unique, attempt and payload to $1, and exits with the status $2
COMMAND = ["--", "sh", "-c", 'printf "%s %s %s\\n" "$GM_UNIQUE" "$GM_ATTEMPT" "$(base64 -w0)" >>"$1"; exit "$2"', "sh"]
UNIQUES = ["job-1", "7c9e6679-7425-40de-944b-e07fc1f90ae7", "da39a3ee5e6b4b0d3255bfef95601890afd80709", "größe-17", "~tilde",
           "a" * 63]


def payload(number: int) -> bytes:
    return f'{{"n": {number}, "text": "grüße"}}'.encode()


# unique -> (payload, attempts made, requeues)
RETRIED = {**{unique: (payload(number), 1, 0) for number, unique in enumerate(UNIQUES, 1)}, "binary-1": (b"\0\xff\xfe\x01", 1, 0)}
DELAYED = {"later-1": (payload(301), 1, 0), "later-2": (payload(302), 1, 0)}
REQUEUED = {"again-1": (payload(101), 0, 1), "again-2": (payload(102), 0, 1)}
PLAIN = {unique + "x" if len(unique) < 63 else "b" * 63: (payload(number), 0, 0) for number, unique in enumerate(UNIQUES, 501)}
WAITING = {**RETRIED, **DELAYED, **REQUEUED, **PLAIN}


@pytest.fixture
def upgraded(gm, new_gearmand):
    """A gearmand on the old store; gm's tools have it and the old quarantine file, whose retries are due."""
    load("gearmand", gm.home / "gearmand.db")
    server = new_gearmand("gearmand.db")
    gm.env["GM_SERVERS"] = server.server
    load("quarantine", gm.home / "quarantine.db", server.server, "PRAGMA journal_mode=WAL; UPDATE job SET due = 0 WHERE due > 0;")
    return server


def load(name: str, path, server: str = "127.0.0.1:4730", after: str = "") -> None:
    """Make a fixture a file; server takes the place of the one that it names."""
    database = sqlite3.connect(path)
    database.executescript((FIXTURES / f"{name}.sql").read_text(encoding="utf-8").replace("127.0.0.1:4730", server) + after)
    database.close()


def work(gm, status: int) -> list[tuple[str, int, bytes]]:
    """Work everything, each attempt exiting with status; (unique, attempt, payload) of each attempt, in order."""
    gm("gm-work", "--until-empty", "--tries=3", "--delay=0", "--brake=0", "grow", *COMMAND, gm.home / "log", status)
    return [(unique, int(attempt), base64.b64decode(coded)) for unique, attempt, coded in
            (line.split() for line in (gm.home / "log").read_text("utf-8").splitlines())]


def test_what_waited_is_worked_once_each(gm, upgraded):
    found = work(gm, 0)
    assert sorted(found) == sorted((unique, attempts + 1, data) for unique, (data, attempts, _) in WAITING.items())
    assert upgraded.waiting(b"grow") == 0
    assert sorted(job["unique"] for job in gm("gm-dead", "--json").records) == ["dead-1", "dead-2"]


def test_what_waited_is_retried_and_counted_on(gm, upgraded):
    found = work(gm, 1)
    assert sorted(found) == sorted((unique, attempt, data) for unique, (data, attempts, _) in WAITING.items()
                                   for attempt in range(attempts + 1, 4))
    dead = {job["unique"]: job for job in gm("gm-dead", "--json", "--reason=error").records}
    assert {unique: (job["attempts"], job["requeues"]) for unique, job in dead.items()} == {
        unique: (3, requeues) for unique, (_, _, requeues) in WAITING.items()}
    assert all(dead[unique]["first_failed"].startswith(FIRST_FAILED) for unique in {**RETRIED, **DELAYED, **REQUEUED})


def test_what_died_again_is_sent_back_and_done(gm, upgraded):
    work(gm, 1)
    gm("gm-requeue", input=gm("gm-dead", "--json").out)
    (gm.home / "log").unlink()
    found = work(gm, 0)
    assert sorted((unique, data) for unique, _, data in found) == sorted(
        [*((unique, data) for unique, (data, _, _) in WAITING.items()), ("dead-1", payload(201)), ("dead-2", payload(202))])
    assert gm("gm-dead", "--json").records == []


def test_what_was_on_its_way_to_gm_collect_arrives(gm, upgraded):
    gm("gm-collect", "--until-empty")
    [job] = [job for job in gm("gm-dead", "--json").records if job["unique"] == "far-1"]
    assert (job["function"], job["data"].encode(), job["reason"], job["attempts"], job["exit"]) == (
        "grow", payload(401), "rejected", 1, 65)
