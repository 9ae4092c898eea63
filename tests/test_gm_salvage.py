"""gm-salvage: what is in a gearmand's queue file, whatever state that is in, without a byte of it changed."""

from __future__ import annotations

import json
import random
import signal
import socket
import sqlite3
import struct
import subprocess
import time

import pytest
from conftest import find_gearmand, free_port, until
from helpers import digests, read_only

SCHEMA = ("CREATE TABLE gearman_queue (unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, "
          "when_to_run INTEGER, PRIMARY KEY(unique_key, function_name))")


def make(path, rows, wal=False, page=4096):
    """A queue file like gearmand's with rows of (unique, function, priority, data, when)."""
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA page_size={page}")
    if wal:
        db.execute("PRAGMA journal_mode=WAL")
    db.execute(SCHEMA)
    db.executemany("INSERT INTO gearman_queue VALUES (?,?,?,?,?)", rows)
    db.commit()
    db.close()
    return path


def simple(count, size=10):
    return [(f"u{n}", "f", 1, b"%d " % n + b"x" * size, 0) for n in range(count)]


@pytest.fixture
def place(tmp_path):
    """A folder of its own for a queue file, so that what appears beside it is seen."""
    folder = tmp_path / "queue"
    folder.mkdir()
    return folder


def test_jobs_in_queue_order_with_all_that_they_are(gm, place):
    make(place / "q.db", [("b", "f", 1, b"second", 0), ("a", "f", 0, b"\xff\0", 0), ("c", "g", 2, "text", 4102444800)])
    records = gm("gm-salvage", place / "q.db").records
    assert records == [
        {"function": "f", "unique": "b", "wire_unique": "b", "priority": "normal", "data": "second"},
        {"function": "f", "unique": "a", "wire_unique": "a", "priority": "high", "data_b64": "/wA="},
        {"function": "g", "unique": "c", "wire_unique": "c", "priority": "low", "due": "2100-01-01T00:00:00Z", "data": "text"}]


def queue(gearmand):
    """The rows of a store as a gearmand left it."""
    db = sqlite3.connect(gearmand.store)
    try:
        return db.execute("SELECT unique_key, function_name, priority, data, when_to_run "
                          "FROM gearman_queue ORDER BY rowid").fetchall()
    finally:
        db.close()


@pytest.mark.slow
def test_the_very_same_jobs_go_back(gm, new_gearmand):
    """Envelopes, wire uniques and what they say, binary payloads, priorities, times: row for row what the old store held."""
    old = new_gearmand("old.db")
    at = {"GM_SERVERS": old.server}
    gm("gm-submit", "--priority=high", "f", "-", input=bytes(range(256)), env=at)
    gm("gm-submit", "f", "-", input=b'%gm1 {"attempts":2}\nlooks like one\n', env=at)   # it is wrapped
    gm("gm-submit", "dies", input=b"one\ntwo\n", env=at)
    long = "long " * 12   # a unique that needs an envelope
    gm("gm-submit", "-u", long, "dies", "-", input=b"three", env=at)
    gm("gm-work", "--until-empty", "--tries=1", "dies", "--", "false", env=at)
    gm("bash", "-c", "gm-dead | gm-requeue -q", env=at)
    gm("gearman", "-h", "127.0.0.1", "-p", old.port, "-b", "-f", "c", "-u", "ends in~w", "payload")
    later = {"function": "c", "unique": "later", "wire_unique": "later", "due": "2100-01-01T00:00:00Z", "data": "x"}
    gm("gm-submit", input=json.dumps(later).encode(), env=at)
    old.kill()
    before = queue(old)
    assert len(before) == 7 and before[-1][-1] == 4102444800 and [row[0][0] for row in before].count("~") == 5
    records = {record["unique"]: record for record in gm("gm-salvage", old.store).records}
    assert records[long]["envelope"]["requeues"] == records[long]["requeues"] == 1 and records[long]["data"] == "three"
    requeued = [record for record in records.values() if record.get("requeues") == 1]
    assert {record["data"] for record in requeued} == {"one", "two", "three"}
    assert all(record["first_failed"].endswith("Z") and len(record["key"]) == 12 for record in requeued)
    new = new_gearmand("new.db")
    result = gm("bash", "-c", f"set -o pipefail; gm-salvage {old.store} | gm-submit -s {new.server}")
    assert len(result.records) == len(before) and result.err == b""
    new.stop()
    assert queue(new) == before


@pytest.mark.slow
def test_a_live_store_in_wal_mode(gm, gearmand):
    gm("gm-submit", "f", input=b"1\n2\n3\n")
    assert [record["data"] for record in gm("gm-salvage", gearmand.store).records] == ["1", "2", "3"]
    assert len(gm("gm-work", "--until-empty", "f", "--", "cat").records) == 3
    assert gm("gm-salvage", gearmand.store).records == []


@pytest.mark.slow
def test_a_live_store_with_a_rollback_journal_is_not_held_up(gm, place):
    """gearmand's own store; it takes submissions all the while."""
    port = free_port()
    server = gm.start(find_gearmand(), "--queue-type=libsqlite3", f"--libsqlite3-db={place}/q.db", "--listen=127.0.0.1",
                      f"--port={port}", "--log-file=stderr")
    at = {"GM_SERVERS": f"127.0.0.1:{port}"}
    until(lambda: gm("gm-submit", "-q", "f", input=b"first\n", env=at, status=None).status == 0)
    submit = gm.start("gm-submit", "-q", "f", env=at, stdin=subprocess.PIPE)
    seen = 0
    for n in range(300):
        submit.stdin.write(b"%d\n" % n)
        submit.stdin.flush()
        if n % 30 == 0:
            seen = len(gm("gm-salvage", place / "q.db").records)
    submit.stdin.close()
    assert submit.wait(30) == 0 and seen >= 1
    assert len(gm("gm-salvage", place / "q.db").records) == 301
    server.terminate()
    server.wait(20)


def killed_in_a_transaction(path, wal):
    """A store whose writer was killed with a transaction half written: 50 rows are committed, 5,000 are not."""
    make(path, simple(50), wal)
    script = (f"import os, signal, sqlite3\ndb = sqlite3.connect({str(path)!r}, isolation_level=None)\n"
              "db.execute('PRAGMA cache_size=5'); db.execute('PRAGMA wal_autocheckpoint=0')\n"
              "db.execute(\"INSERT INTO gearman_queue VALUES ('last', 'f', 1, x'31', 0)\")\n"
              "db.execute('BEGIN')\n"
              "for n in range(5000): db.execute(\"INSERT INTO gearman_queue VALUES (?, 'f', 1, ?, 0)\", (f'v{n}', b'y' * 500))\n"
              "os.kill(os.getpid(), signal.SIGKILL)\n")
    assert subprocess.run(["python3", "-c", script]).returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("wal", [True, False], ids=["wal", "journal"])
@pytest.mark.parametrize("volume", ["writable", "read-only"])
def test_killed_in_mid_write(gm, place, wal, volume):
    killed_in_a_transaction(place / "q.db", wal)
    assert (place / ("q.db-wal" if wal else "q.db-journal")).stat().st_size > 0
    before = digests(place)
    command = ["gm-salvage", place / "q.db"]
    result = gm(*(read_only(place, command) if volume == "read-only" else command))
    assert [record["unique"] for record in result.records] == [f"u{n}" for n in range(50)] + ["last"]
    assert digests(place) == before and result.err == b""


def test_a_wal_without_its_index(gm, place):
    """As a copy of the two files has it."""
    killed_in_a_transaction(place / "q.db", True)
    (place / "q.db-shm").unlink()
    before = digests(place)
    assert len(gm("gm-salvage", place / "q.db").records) == 51
    assert digests(place) == before
    assert not list(place.parent.glob("gm-salvage-*"))


def test_a_store_closed_in_order_leaves_nothing_beside_it(gm, place):
    make(place / "q.db", simple(3), wal=True)
    before = digests(place)
    assert len(gm("gm-salvage", place / "q.db").records) == 3
    assert digests(place) == before


def leaves(path, page=4096):
    """The numbers of the pages of the table that hold jobs: leaves of a table's tree."""
    data = path.read_bytes()
    return [n for n in range(1, len(data) // page) if data[n * page] == 13]


def damage(path, number, page=4096):
    with open(path, "r+b") as file:
        file.seek(number * page)
        file.write(random.Random(number).randbytes(page))


def test_damaged_pages_cost_what_is_on_them_and_no_more(gm, place):
    path = make(place / "q.db", simple(2000, 100))
    pages = leaves(path)
    for number in (pages[3], pages[4], pages[20], pages[-1]):
        damage(path, number)
    result = gm("gm-salvage", path, status=1)
    there = [record["unique"] for record in result.records]
    assert len(set(there)) == len(there) and 1800 < len(there) < 2000
    lost = {f"u{n}" for n in range(2000)} - set(there)
    told = {line.split(b"unique ")[1].split(b":")[0].decode() for line in result.err.splitlines() if b"unique u" in line}
    assert len(told) == 20 and told <= lost
    assert f"lost: {len(lost) - 20} more".encode() in result.err
    checked = gm("gm-salvage", "--check", path, status=1).records
    assert [record["count"] for record in checked if record["what"] == "jobs"] == [len(there)]
    assert len([record for record in checked if record["what"] == "lost"]) == 3
    assert any(record["what"] == "damage" and record["wrong"] for record in checked)


def test_the_index_damaged_too(gm, place):
    path = make(place / "q.db", simple(2000, 100))
    data = path.read_bytes()
    for number in [n for n in range(1, len(data) // 4096) if data[n * 4096] in (2, 10)] + leaves(path)[5:7]:
        damage(path, number)
    result = gm("gm-salvage", path, status=1)
    assert len(result.records) > 1900 and b"lost: what stood in rows " in result.err and b"Traceback" not in result.err


def test_a_large_payload_whose_rest_is_gone(gm, place):
    path = make(place / "q.db", [*simple(5), ("big", "f", 1, b"z" * 100_000, 0), ("after", "f", 1, b"1", 0)])
    with open(path, "r+b") as file:   # the pages of the payload, cut from their chain
        data = file.read()
        at = next(n for n in range(1, len(data) // 4096) if data[n * 4096 + 4:n * 4096 + 4096] == b"z" * 4092)
        file.seek(at * 4096)
        file.write(struct.pack(">I", 1 << 30))
    result = gm("gm-salvage", path, status=1)
    assert [record["unique"] for record in result.records] == ["u0", "u1", "u2", "u3", "u4", "after"]
    assert b"unique big: its page is damaged" in result.err


def test_check(gm, place):
    path = make(place / "q.db", [("a", "f", 1, b"1", 0), ("b", "f", 1, None, 0), ("c", "f", None, b"1", None),
                                 ("d" * 64, "f", 1, b"1", 0), ("e", "f", 1, b"1", int(time.time()) + 1000)])
    result = gm("gm-salvage", "--check", path, status=1)
    found = {record["what"]: record for record in result.records}
    assert found["jobs"]["count"] == 5 and not found["jobs"]["wrong"] and "1 wait" in found["jobs"]["detail"]
    for what in ("empty payload", "no time", "no priority", "unique"):
        assert found[what]["count"] == 1 and found[what]["wrong"], what
    assert "gm-server mends" in found["empty payload"]["detail"] and "rollback" in found["mode"]["detail"]
    make(place / "good.db", simple(3), wal=True)
    assert not any(record["wrong"] for record in gm("gm-salvage", "--check", place / "good.db").records)


def test_check_says_who_has_it_open(gm, gearmand):
    found = {record["what"]: record for record in gm("gm-salvage", "--check", gearmand.store).records}
    assert found["in use"]["detail"] == f"by process {gearmand.process.pid}" and found["mode"]["detail"] == "WAL"
    gearmand.kill()
    assert "in use" not in {record["what"] for record in gm("gm-salvage", "--check", gearmand.store).records}


def test_an_empty_payload_is_told_and_refused(gm, place, gearmand):
    path = make(place / "q.db", [("a", "f", 1, b"1", 0), ("b", "f", 1, None, 0)])
    result = gm("bash", "-c", f"gm-salvage {path} | gm-submit", status=1)
    assert [record["unique"] for record in result.records] == ["a"]
    assert b"1 job with an empty payload: " in result.err and b"stdin:2: empty payload" in result.err
    # for workers of gm-work it can go in an envelope
    gm("bash", "-c", f"gm-salvage {path} | jq -c 'select(.data == \"\") | .envelope = {{attempts: 0}}' | gm-submit")
    assert gearmand.waiting(b"f") == 2


@pytest.mark.parametrize("content, why", [
    (b"", b"empty"), (b"no database at all, but long enough" * 10, b"not an SQLite database"), (None, b"no such file")])
def test_what_is_no_queue_file(gm, place, content, why):
    if content is not None:
        (place / "q.db").write_bytes(content)
    result = gm("gm-salvage", place / "q.db", status=111)
    assert why in result.err and result.out == b"" and result.err.count(b"\n") == 1


def test_another_table(gm, place):
    path = make(place / "q.db", simple(2))
    db = sqlite3.connect(path)
    db.execute('ALTER TABLE gearman_queue RENAME TO "my ""queue"')
    db.close()
    assert b'my "queue' in gm("gm-salvage", path, status=111).err
    assert len(gm("gm-salvage", '--table=my "queue', path).records) == 2


def test_a_first_page_that_is_damaged(gm, place):
    path = make(place / "q.db", simple(100))
    damage(path, 0)
    with open(path, "r+b") as file:
        file.write(b"SQLite format 3\0")
    result = gm("gm-salvage", path, status=111)
    assert result.err.count(b"\n") == 1 and b"Traceback" not in result.err


def test_a_damaged_schema_of_which_sqlite_speaks_in_other_bytes_than_text(gm, place):
    path = make(place / "q.db", simple(3))
    damaged = path.read_bytes().replace(b"gearman_queue", b"gearman_que\xff\xfe").replace(b"CREATE TABLE", b"CREATE TABXE")
    path.write_bytes(damaged)
    assert gm("gm-salvage", path, status=111).err == b"gm-salvage: %s: its schema is damaged\n" % bytes(path)


@pytest.mark.slow
def test_any_bytes_are_jobs_or_an_error(gm, place):
    """Damage of any kind: records, or one line and an exit status, never a traceback or a job that was not there."""
    whole = make(place / "q.db", simple(300, 60)).read_bytes()
    there = {f"u{n}" for n in range(300)}
    dice = random.Random(5)
    for _ in range(12):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 3, 30))):
            at = dice.randrange(100, len(data))
            data[at:at + 8] = dice.randbytes(8)
        if dice.random() < 0.3:
            del data[dice.randrange(4096, len(data)):]
        (place / "d.db").write_bytes(data)
        result = gm("gm-salvage", place / "d.db", status=None)
        assert result.status in (0, 1, 111) and b"GM_DEBUG" not in result.err, result
        uniques = [record.get("unique") for record in result.records]
        assert len([unique for unique in uniques if unique in there]) >= len(uniques) - 30 * 2


ODD = [None, "", b"", "text", b"\xff\0", 0, -1, 1 << 62, -(1 << 63), 1.5, 1e300, float("inf"), 99999999999999999, "%gm1 {\n"]


def test_anything_in_any_column_ends_nothing(gm, place):
    """Each odd value in each column, between rows in order; a file whose table has no types takes it as it is."""
    db = sqlite3.connect(place / "q.db")
    db.execute("CREATE TABLE gearman_queue (unique_key, function_name, priority, data, when_to_run)")
    rows = []
    for column in range(5):
        for value in ODD:
            row = [f"u{len(rows)}", "f", 1, b"%d" % len(rows), 0]
            row[column] = value
            rows += [(f"u{len(rows)}", "f", 1, b"good", 0), row]
    db.executemany("INSERT INTO gearman_queue VALUES (?,?,?,?,?)", rows)
    db.commit()
    db.close()
    result = gm("gm-salvage", place / "q.db", status=1)
    assert len(result.records) == len(rows) and b"Traceback" not in result.err and b"GM_DEBUG" not in result.err
    assert sum(record.get("data") == "good" for record in result.records) == len(rows) // 2
    gm("gm-salvage", "--check", place / "q.db", status=1)


def test_a_time_beyond_all_records_is_shown_as_the_last_and_reported(gm, place):
    make(place / "q.db", [("a", "f", 1, b"1", 0), ("late", "f", 1, b"2", 99999999999999999), ("b", "f", 1, b"3", 0)])
    result = gm("gm-salvage", place / "q.db", status=1)
    assert [(record["unique"], record.get("due")) for record in result.records] == [
        ("a", None), ("late", "9999-12-31T23:59:59Z"), ("b", None)]
    assert result.err.count(b"\n") == 1 and b"unique late: its time, 99999999999999999," in result.err
    found = {record["what"]: record for record in gm("gm-salvage", "--check", place / "q.db", status=1).records}
    assert found["time"]["count"] == 1 and found["jobs"]["count"] == 3


def test_row_ids_of_any_size_are_read_in_order(gm, place):
    make(place / "q.db", simple(3))
    db = sqlite3.connect(place / "q.db")
    for row, unique in ((-5, "minus"), (-(1 << 63), "first"), ((1 << 63) - 1, "last")):
        db.execute("INSERT INTO gearman_queue (rowid, unique_key, function_name, priority, data, when_to_run) "
                   "VALUES (?, ?, 'f', 1, x'31', 0)", (row, unique))
    db.commit()
    db.close()
    uniques = [record["unique"] for record in gm("gm-salvage", place / "q.db").records]
    assert uniques == ["first", "minus", "u0", "u1", "u2", "last"]


@pytest.mark.slow
def test_twins_are_shown_for_what_they_are_and_go_back_one_by_one(gm, gearmand, new_gearmand):
    peer = socket.create_connection(("127.0.0.1", gearmand.port), 10)
    uniques = [b"", b"", b"", b"-", b"-", b"u" * 63 + b"1", b"u" * 63 + b"2", b"own"]
    for number, unique in enumerate(uniques):
        body = b"\0".join((b"f", unique, b"%d" % number))
        peer.sendall(b"\0REQ" + struct.pack(">II", 18, len(body)) + body)
    until(lambda: gearmand.waiting(b"f") == len(uniques))
    for state in ("live", "killed"):
        records = gm("gm-salvage", gearmand.store).records
        assert [record["data"] for record in records] == [str(number) for number in range(len(uniques))]
        assert [record.get("unique") for record in records] == [None] * 3 + ["-"] * 2 + ["u" * 63] * 2 + ["own"]
        stood = [record.get("wire_unique") for record in records]
        assert len(set(stood)) == len(records) and stood[2] is None and stood[4] == "-" and stood[6:] == ["u" * 63, "own"]
        facts = {record["what"]: record for record in gm("gm-salvage", "--check", gearmand.store).records}
        assert (facts["jobs"]["count"], facts["twins"]["count"]) == (8, 4) and not any(fact["wrong"] for fact in facts.values())
        if state == "live":
            gearmand.kill()
    new = new_gearmand("new.db")
    gm("bash", "-c", f"set -o pipefail; gm-salvage {gearmand.store} | gm-submit -q -s {new.server}")
    assert new.waiting(b"f") == len(uniques)
