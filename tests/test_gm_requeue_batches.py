"""gm-requeue over several batches: one is taken out while the next is sent."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess

import pytest
from conftest import until
from helpers import bury, dead_count, idents, listing_file, queued

from libgm.quarantine import schema

JOBS = 11_000   # three batches


@pytest.fixture
def listing(gm, memory_gearmand):
    """A file of the records of JOBS dead jobs."""
    bury(gm, [b"%d" % number for number in range(JOBS)])
    return listing_file(gm)


def change(gm, *statements):
    """Change the quarantine file behind everybody's back."""
    with gm.database() as db:
        for statement in statements:
            db.execute(statement)


def requeued(gm):
    return [(entry["job"], entry["revision"], entry["error"]) for entry in gm("gm-history", "--action=requeue").records]


@pytest.mark.slow(10)
def test_deaths_in_between_stay_whatever_batch_they_are_in(gm, memory_gearmand, listing):
    """Each seventh job dies again between its claim and its removal; the history has what was sent, not the newer death."""
    change(gm, "UPDATE job SET error = 'first'",
           "CREATE TRIGGER again AFTER UPDATE OF claim ON job WHEN NEW.claim IS NOT NULL AND NEW.id % 7 = 0 BEGIN "
           "UPDATE job SET revision = revision + 1, error = 'second', claim = NULL, nonce = NULL WHERE id = NEW.id; END")
    result = gm("gm-requeue", input=listing.read_bytes(), status=1)
    stayed = [number for number in range(1, JOBS + 1) if number % 7 == 0]
    assert result.err.count(b"was sent, but failed again meanwhile") == len(stayed) == result.err.count(b"\n")
    assert [(record["id"], record["revision"], record["error"], record["state"]) for record in gm("gm-dead").records] == \
        [(ident, 2, "second", "dead") for ident in stayed]
    assert sorted(record["id"] for record in result.records) == [n for n in range(1, JOBS + 1) if n % 7]
    assert sorted(requeued(gm)) == [(ident, 1, "first") for ident in range(1, JOBS + 1)]
    assert memory_gearmand.waiting(b"f") == JOBS


@pytest.mark.slow
def test_a_job_that_dies_again_is_sent_under_another_name_by_the_same_run(gm, memory_gearmand):
    """Its first copy, dead but not yet acknowledged, would swallow one of the same wire unique (gm-delivery(7), rule 5)."""
    bury(gm, [b"x"])
    change(gm, "CREATE TABLE sent (number)",
           "CREATE TRIGGER seen AFTER UPDATE OF claim ON job WHEN NEW.claim IS NOT NULL BEGIN "
           "INSERT INTO sent VALUES (NEW.claim_sends); END")
    requeue = gm.start("gm-requeue", "-q", "--ids", stdin=subprocess.PIPE)
    requeue.stdin.write(b"1\n")
    requeue.stdin.flush()
    until(lambda: idents(gm) == [])
    gm("gm-work", "-q", "--until-empty", "--tries=1", "f", "--", "false")
    again, = idents(gm)
    requeue.stdin.write(b"%d\n" % again)
    requeue.stdin.close()
    assert requeue.wait(20) == 0
    with gm.database() as db:
        assert db.execute("SELECT number FROM sent").fetchall() == [(1,), (2,)]
    assert memory_gearmand.waiting(b"f") == 1


@pytest.mark.slow(10)
def test_a_job_named_again_after_it_died_again_is_not_removed_by_its_first_sending(gm, memory_gearmand):
    """By its bare id, in two batches: the second sending is of the newer death, and removes that alone."""
    bury(gm, [b"x"] * 5001)
    change(gm, "CREATE TRIGGER again AFTER UPDATE OF claim ON job WHEN NEW.claim IS NOT NULL AND NEW.id = 1 AND NEW.revision = 1 "
               "BEGIN UPDATE job SET revision = 2, sends = claim_sends, claim = NULL, claim_sends = NULL WHERE id = 1; END")
    lines = b"".join(b"%d\n" % number for number in [*range(1, 5002), 1])
    assert b"1: was sent, but failed again" in gm("gm-requeue", "-q", "--ids", input=lines, status=1).err
    assert idents(gm) == [] and memory_gearmand.waiting(b"f") == 5002   # one copy of each death
    assert [entry[:2] for entry in requeued(gm) if entry[0] == 1] == [(1, 1), (1, 2)]


@pytest.mark.slow(10)
def test_killed_anywhere_at_full_speed_all_is_sent_and_what_is_sent_again_merges(gm, memory_gearmand, listing):
    dice, kills, copies = random.Random(5), 0, 0
    for _ in range(12):
        process = gm.start("gm-requeue", "-q", stdin=listing)
        sent = memory_gearmand.waiting(b"f") + dice.randrange(300)
        until(lambda: process.poll() is not None or memory_gearmand.waiting(b"f") >= sent, longest=0.005)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        waiting, left, written = memory_gearmand.waiting(b"f"), dead_count(gm), len(requeued(gm))
        assert waiting + left >= JOBS and written == JOBS - left   # what is in neither place is lost
        copies = max(copies, waiting + left - JOBS)
    assert kills > 4
    gm("gm-requeue", "-q", input=listing.read_bytes())
    print(f"{kills} kills, at most {copies} jobs both sent and still there")
    assert idents(gm) == [] and memory_gearmand.waiting(b"f") == JOBS
    assert sorted(entry[0] for entry in requeued(gm)) == list(range(1, JOBS + 1))


@pytest.mark.slow(10)
def test_two_at_full_speed_send_each_job_once(gm, memory_gearmand, listing):
    both = [gm.start("gm-requeue", stdin=listing) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    sent = [json.loads(line)["id"] for process in both for line in process.out_path.read_bytes().splitlines()]
    assert sorted(sent) == list(range(1, JOBS + 1)) == sorted(entry[0] for entry in requeued(gm))
    assert idents(gm) == [] and memory_gearmand.waiting(b"f") == JOBS


@pytest.mark.slow(10)
def test_a_removal_that_fails_loses_nothing(gm, memory_gearmand, listing):
    change(gm, "CREATE TRIGGER stop BEFORE DELETE ON job WHEN OLD.id = 6000 BEGIN SELECT raise(ABORT, 'the disk is full'); END")
    result = gm("gm-requeue", "-q", input=listing.read_bytes(), status=111)
    assert b"the disk is full" in result.err and b"jobs sent back before that" in result.err
    left = idents(gm)
    assert 6000 in left and memory_gearmand.waiting(b"f") + len(left) >= JOBS and len(requeued(gm)) == JOBS - len(left)
    assert {record["state"] for record in gm("gm-dead").records} == {"dead"}
    change(gm, "DROP TRIGGER stop")
    gm("gm-requeue", "-q", input=listing.read_bytes())
    assert idents(gm) == [] and memory_gearmand.waiting(b"f") == JOBS and len(requeued(gm)) == JOBS


@pytest.mark.slow
def test_edits_and_what_is_sent_as_it_is_in_one_batch(gm, gearmand):
    bury(gm, [b"%d" % number for number in range(60)])
    records = gm("gm-dead").records
    for record in records[::3]:
        record["data"] += "!"
    gm("gm-requeue", "-q", "--edit", input="\n".join(map(json.dumps, records)).encode())
    assert idents(gm) == []
    assert sorted(data for _, _, data in queued(gearmand)) == \
        sorted(b"%d" % number + b"!" * (number % 3 == 0) for number in range(60))
    entries = gm("gm-history", "--action=requeue").records
    assert len(entries) == 60 and all(entry["edited"] == (entry["job"] % 3 == 1) for entry in entries)


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_a_file_that_nobody_has_migrated(gm, memory_gearmand, version):
    old_file(gm.env["GM_QUARANTINE"], version)
    assert [(record["key"], record["sends"]) for record in gm("gm-dead").records] == [("000000000001", 0), ("000000000002", 0)]
    gm("gm-requeue", "-q", "1")
    gm("gm-drop", "-q", "2")
    assert idents(gm) == [] and [entry["action"] for entry in gm("gm-history", "--action=requeue").records] == ["requeue"]


def old_file(path, version):
    """A file as an earlier gearmang made it, with two jobs in it."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    for script in schema.MIGRATIONS[:version]:
        db.executescript(script)
    for number in (1, 2):
        db.execute("INSERT INTO job (state, key, function, unique_, reason, error, attempts, first_failed, last_failed, data) "
                   "VALUES ('dead', ?, 'f', 'u', 'error', 'why', 3, 1, 2, 'x')", (f"{number:012}" + "f" * 20,))
    db.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
    db.execute(f"PRAGMA user_version={version}")
    db.commit()
    db.close()
