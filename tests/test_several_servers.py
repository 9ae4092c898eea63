"""Three gearmands: one goes for good in mid-run; the work goes on, and what was on it is salvaged."""

from __future__ import annotations

import collections
import json

import pytest
from conftest import until


@pytest.fixture
def three(gm, new_gearmand):
    """Three gearmands with stores; gm's tools know them all."""
    servers = [new_gearmand(f"{number}.db") for number in range(3)]
    gm.env["GM_SERVERS"] = ",".join(server.server for server in servers)
    return servers


def done(worker) -> collections.Counter:
    """How often each unique was done."""
    return collections.Counter(event["unique"] for event in map(json.loads, worker.out_path.read_bytes().splitlines())
                               if event["event"] == "done")


def jobs(names) -> bytes:
    return "".join(json.dumps({"function": "f", "unique": name, "data": f"payload of {name}"}) + "\n" for name in names).encode()


@pytest.mark.slow
def test_one_of_three_is_killed_for_good_and_recovered(gm, three):
    names = [f"job-{number}" for number in range(600)]
    first, second = names[:300], names[300:]
    accepted = {record["unique"]: record["server"] for record in gm("gm-submit", input=jobs(first)).records}
    assert len(set(accepted.values())) == 3   # every server has a share
    gone = three[1]
    worker = gm.start("gm-work", "-j2", "--max-jobs=50", "f", "--", "sh", "-c", "sleep 0.002")
    until(lambda: len(done(worker)) >= 60)
    gone.kill()   # for good
    result = gm("gm-submit", input=jobs(second))   # submission goes on, on those that are left
    assert len(result.records) == 300
    assert {record["server"] for record in result.records} == {three[0].server, three[2].server}
    on_it = {name for name in first if accepted[name] == gone.server}
    until(lambda: set(names) - on_it <= set(done(worker)), timeout=60, what="what is elsewhere is done")
    status = gm("gm-status", status=1)   # it says which one is away, and still shows the others
    assert status.err.count(b"\n") == 1 and gone.server.encode() in status.err and status.records
    salvaged = gm("gm-salvage", gone.store)
    left = {record["unique"] for record in salvaged.records}
    assert on_it - set(done(worker)) <= left <= on_it
    alive = f"{three[0].server},{three[2].server}"
    assert len(gm("gm-submit", f"--server={alive}", input=salvaged.out).records) == len(left)
    until(lambda: set(done(worker)) == set(names), timeout=60, what="every job is done")
    twice = {name for name, count in done(worker).items() if count > 1}
    assert twice <= left and len(twice) <= 2, twice   # at most what a worker had in hand
    worker.terminate()
    assert worker.wait(30) == 0


@pytest.mark.slow
def test_what_failed_on_the_server_that_is_gone_goes_on_elsewhere(gm, three):
    """Retries and deaths are in the quarantine file: they do not hang on the server that they came from."""
    gm("gm-submit", input=jobs(f"job-{number}" for number in range(60)))
    gm("gm-work", "--until-empty", "--tries=2", "--delay=1h", "--brake=0", "-q", "f", "--", "false")
    assert len(gm("gm-dead", "--delayed").records) == 60
    three[0].kill()
    with gm.database() as db:
        db.execute("UPDATE job SET due = 0")
    worker = gm.start("gm-work", "--tries=2", "--delay=1h", "--brake=0", "f", "--", "false")
    until(lambda: len(gm("gm-dead").records) == 60, timeout=60)
    worker.kill()
    assert len(gm("gm-requeue", input=gm("gm-dead").out).records) == 60
    assert sum(server.waiting(b"f") for server in three[1:]) == 60


def test_a_unique_keeps_to_its_server(gm, three):
    """gearmand merges equal uniques within one server only."""
    where = [{record["unique"]: record["server"] for record in gm("gm-submit", input=jobs("abcdefgh")).records} for _ in range(2)]
    assert where[0] == where[1] and sum(server.waiting(b"f") for server in three) == 8


def test_a_server_that_comes_back_is_used_again(gm, three):
    three[2].kill()
    worker = gm.start("gm-work", "f", "--", "true")
    gm("gm-submit", "-q", input=jobs(f"a{number}" for number in range(30)))
    until(lambda: len(done(worker)) == 30)
    three[2].start()
    gm("gm-submit", "-q", f"--server={three[2].server}", input=jobs(["back"]))
    until(lambda: done(worker)["back"], timeout=40)
