"""The quarantine file itself: versions, refusals, many writers, slow readers, volumes, indexes."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys

import pytest
from conftest import ROOT, until
from helpers import digests, read_only

from libgm.errors import Unavailable
from libgm.quarantine import audit, file, schema, selection

pytestmark = pytest.mark.slow

# The schema as the first version made it: never to be edited.
VERSION_1 = """
CREATE TABLE job (id INTEGER PRIMARY KEY AUTOINCREMENT, revision INTEGER NOT NULL DEFAULT 1, state TEXT NOT NULL,
  key TEXT NOT NULL UNIQUE, function NOT NULL, unique_ NOT NULL, priority TEXT NOT NULL DEFAULT 'normal', reason TEXT,
  error TEXT, stderr TEXT, exit INTEGER, signal TEXT, attempts INTEGER NOT NULL DEFAULT 0,
  requeues INTEGER NOT NULL DEFAULT 0, first_failed INTEGER, last_failed INTEGER, due REAL, servers TEXT, server TEXT,
  handle TEXT, host TEXT, fingerprint TEXT, claim INTEGER, nonce TEXT, payload_file TEXT, data NOT NULL);
CREATE INDEX job_function ON job(function, state);
CREATE INDEX job_unique ON job(unique_);
CREATE INDEX job_fingerprint ON job(fingerprint);
CREATE INDEX job_due ON job(due) WHERE state = 'delayed';
CREATE INDEX job_claim ON job(claim) WHERE claim IS NOT NULL;
CREATE TABLE process (id INTEGER PRIMARY KEY AUTOINCREMENT, tool TEXT NOT NULL, host TEXT NOT NULL, namespace INTEGER,
  pid INTEGER, pid_start INTEGER, started INTEGER NOT NULL, function, servers TEXT, paused_until REAL, paused_why TEXT);
CREATE TABLE start (process INTEGER NOT NULL, run INTEGER NOT NULL, identity BLOB NOT NULL, function NOT NULL,
  unique_ NOT NULL, handle TEXT, server TEXT, attempts INTEGER NOT NULL, started REAL NOT NULL, mark TEXT,
  PRIMARY KEY (process, run)) WITHOUT ROWID;
CREATE INDEX start_identity ON start(identity);
CREATE TABLE audit (id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, action TEXT NOT NULL, user TEXT,
  host TEXT, job INTEGER, revision INTEGER, key TEXT, function, unique_, reason TEXT, error TEXT, fingerprint TEXT);
CREATE INDEX audit_job ON audit(job);
INSERT INTO job (state, key, function, unique_, reason, error, attempts, first_failed, last_failed, fingerprint, data)
  VALUES
  ('dead', '00000000000000000000000000000001', 'f', 'u1', 'error', 'why', 3, 1700000000, 1700000060, '0123456789ab', 'one'),
  ('dead', '00000000000000000000000000000002', x'ff', 'u2', 'error', 'why 2', 3, 1700000000, 1700000060, '0123456789ac', x'ff00');
INSERT INTO audit (time, action, user, host, job, revision, key, function, unique_, reason, error, fingerprint)
  VALUES (1700000100, 'drop', 'me', 'here', 3, 1, '00000000000000000000000000000003', 'f', 'u3', 'error', 'why', '0123456789ab');
"""


@pytest.fixture
def path(gm, tmp_path):
    """The quarantine file's path, in a folder of its own."""
    folder = tmp_path / "state"
    folder.mkdir()
    gm.env["GM_QUARANTINE"] = str(folder / "q.db")
    return folder / "q.db"


@pytest.fixture
def version_1(path):
    """A file of the first version with two jobs and one line of history in it."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.executescript(VERSION_1)
    db.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
    db.execute("PRAGMA user_version=1")
    db.commit()
    db.close()
    return path


def line(n, function="f"):
    return b'{"function":"%b","unique":"u%d","data":"%d","last_failed":"2026-01-01T00:00:00Z"}\n' % (function.encode(), n, n)


def version(path):
    db = sqlite3.connect(path)
    try:
        return db.execute("PRAGMA user_version").fetchone()[0]
    finally:
        db.close()


def layout(path):
    """Tables with their columns, and indexes."""
    db = sqlite3.connect(path)
    try:
        names = db.execute("SELECT type, name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'").fetchall()
        columns = {name: db.execute(f"PRAGMA table_info({name})").fetchall() for kind, name, _ in names if kind == "table"}
        return sorted(names), columns
    finally:
        db.close()


@pytest.fixture
def older(gm, tmp_path):
    """older("gm-bury", ...) is the command of a gearmang that knows only version 1."""
    script = tmp_path / "older.py"
    script.write_text(f"import runpy, sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom libgm.quarantine import file, schema\n"
                      "file.MIGRATIONS, file.VERSION = schema.MIGRATIONS[:1], 1\n"
                      f"sys.argv = [{str(ROOT / 'bin')!r} + '/' + sys.argv[1], *sys.argv[2:]]\n"
                      "runpy.run_path(sys.argv[0], run_name='__main__')\n")
    return lambda *args: [sys.executable, script, *args]


# ---- versions


def test_the_first_version_is_still_what_the_first_migration_makes(path, version_1):
    db = sqlite3.connect(path.with_name("new.db"))
    db.executescript(schema.MIGRATIONS[0])
    db.close()
    assert layout(path) == layout(path.with_name("new.db"))


def test_an_older_file_is_read_and_worked_with_as_it_is(gm, gearmand, version_1):
    assert [record["id"] for record in gm("gm-dead").records] == [1, 2]
    assert [group["count"] for group in gm("gm-dead", "--group").records] == [1, 1]
    assert [(entry["job"], entry["edited"]) for entry in gm("gm-history").records] == [(3, False)]
    gm("gm-status")
    gm("gm-requeue", "1")
    gm("gm-drop", "2")
    assert [entry["action"] for entry in gm("gm-history").records] == ["drop", "requeue", "drop"]
    assert version(version_1) == 1


def test_whoever_may_make_a_file_brings_an_older_one_up_to_date(gm, version_1):
    before = gm("gm-dead").records
    gm("gm-bury", input=line(1))
    assert version(version_1) == schema.VERSION
    assert gm("gm-dead").records[:2] == before and len(gm("gm-history").records) == 2
    new = version_1.with_name("new.db")
    gm("gm-bury", "--quarantine", new, input=line(1))
    assert layout(version_1) == layout(new)


def test_older_and_newer_at_work_at_once(gm, older, version_1):
    """Older ones that have the file open go on while it is migrated and afterwards; one that comes then is refused."""
    burying = [gm.start(*older("gm-bury"), stdin=subprocess.PIPE) for _ in range(4)]

    def feed(first):
        for n, process in enumerate(burying):
            process.stdin.write(line(first + n))
            process.stdin.flush()
    feed(0)
    until(lambda: len(gm("gm-dead").records) == 2 + 4)
    assert version(version_1) == 1
    newer = [gm.start("gm-bury", stdin=subprocess.PIPE) for _ in range(4)]
    for n, process in enumerate(newer):
        process.stdin.write(line(100 + n))
        process.stdin.flush()
        feed(10 * (n + 1))
    until(lambda: version(version_1) == schema.VERSION)
    feed(200)
    for process in burying + newer:
        process.stdin.close()
        assert process.wait(20) == 0 and process.err_path.read_bytes() == b""
    assert len(gm("gm-dead").records) == 2 + 4 + 4 * 5 + 4
    assert len(gm("gm-history", "--action=bury").records) == 4 + 4 * 5 + 4
    refused = gm(*older("gm-bury"), input=line(999), status=111)
    assert b"from a newer gearmang: its version is %d, this one knows 1" % schema.VERSION in refused.err
    assert b"from a newer gearmang" in gm(*older("gm-dead"), status=111).err


# ---- refusals


def test_a_newer_file_is_refused(gm, path):
    gm("gm-bury", "-q", input=line(1))
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={schema.VERSION + 1}")
    db.close()
    for command in (["gm-dead"], ["gm-bury"], ["gm-drop", "1"], ["gm-history"]):
        result = gm(*command, input=line(2), status=111)
        assert result.out == b"" and b"from a newer gearmang" in result.err and result.err.count(b"\n") == 1


@pytest.mark.parametrize("kind, why", [
    ("text", b"not an SQLite database"), ("foreign", b"an SQLite database of something else"),
    ("empty", b"empty: gm-work makes it"), ("folder", b"is a directory"), ("pipe", b"not a regular file")])
def test_what_is_no_quarantine_file_is_refused(gm, path, kind, why):
    if kind == "text":
        path.write_bytes(b"no database at all, but long enough to be one " * 100)
    elif kind == "foreign":
        sqlite3.connect(path).execute("CREATE TABLE job (id)").connection.close()
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    before = path.read_bytes() if path.is_file() else None
    commands = [["gm-dead"], ["gm-requeue", "1"], ["gm-drop", "1"], ["gm-history"]] + [["gm-bury"]] * (kind != "empty")
    for command in commands:
        result = gm(*command, input=line(1), status=111)
        assert why in result.err and os.fsencode(path) in result.err and result.err.count(b"\n") == 1, result
    assert before is None or path.read_bytes() == before


def test_a_damaged_file_is_an_error_and_not_a_traceback(gm, path):
    gm("gm-bury", "-q", input=b"".join(line(n) for n in range(3000)))
    whole, dice = path.read_bytes(), random.Random(3)
    assert not path.with_name("q.db-wal").exists()
    worst = 0
    for _ in range(4):
        data = bytearray(whole)
        for page in dice.sample(range(2, len(data) // 4096), 30):
            data[page * 4096:page * 4096 + 4096] = dice.randbytes(4096)
        path.write_bytes(data)
        for command in (["gm-dead"], ["gm-dead", "--group"], ["gm-dead", "-m", "x"], ["gm-dead", "7"], ["gm-dead", "-f", "f"],
                        ["gm-history"], ["gm-drop", "-q", "5", "1500"]):
            result = gm(*command, status=None)
            assert result.status in (0, 1, 111) and b"GM_DEBUG" not in result.err, result
            if result.status == 111:
                worst += b"damaged" in result.err
                assert result.err.count(b"\n") == 1 and os.fsencode(path) in result.err, result
    assert worst > 3


def test_network_file_systems_are_refused(tmp_path, monkeypatch):
    table = tmp_path / "mountinfo"
    table.write_text("22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
                     "30 22 0:40 / /srv/nfs rw - nfs4 server:/export rw\n"
                     "31 30 0:41 / /srv/nfs/local rw - xfs /dev/sdb rw\n"
                     "32 22 0:42 / /mnt/with\\040space rw - fuse.sshfs host: rw\n"
                     "33 22 0:43 / /nfs rw shared:7 - cifs //host/share rw\n")

    for place in ("/srv/nfs/local/q.db", "/srv/nfsx/q.db", "/q.db"):
        file.check_place(place, str(table))
    for place, kind in (("/srv/nfs/q.db", "nfs4"), ("/mnt/with space/q.db", "fuse.sshfs"), ("/nfs/a/b", "cifs")):
        with pytest.raises(Unavailable, match=rf"network file system \({kind}\)"):
            file.check_place(place, str(table))
    with pytest.raises(Unavailable, match="is a mount point"):
        file.check_place("/srv/nfs/local", str(table))
    file.check_place(str(tmp_path / "q.db"))


# ---- who reads, who writes


def test_thirty_two_at_once_make_the_file_and_write_it(gm, path):
    burying = [gm.start("gm-bury", "-q", stdin=subprocess.PIPE) for _ in range(32)]
    for n in range(10):
        for each, process in enumerate(burying):
            process.stdin.write(line(100 * each + n))
            process.stdin.flush()
    for process in burying:
        process.stdin.close()
    for process in burying:
        assert process.wait(60) == 0 and process.err_path.read_bytes() == b""
    assert len(gm("gm-dead").records) == 320 and len(gm("gm-history").records) == 320


@pytest.mark.parametrize("volume", ["closed", "with a WAL"])
def test_a_read_only_volume_can_be_looked_at(gm, path, volume):
    gm("gm-bury", "-q", input=line(1) + line(2))
    if volume == "with a WAL":
        script = (f"import os, signal, sqlite3\ndb = sqlite3.connect({str(path)!r}, isolation_level=None)\n"
                  "db.execute(\"UPDATE job SET error = 'in the WAL', claim = 7\")\nos.kill(os.getpid(), signal.SIGKILL)\n")
        assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    before = digests(path.parent)
    for command in (["gm-dead"], ["gm-dead", "1", "2"]):
        result = gm(*read_only(path.parent, command))
        assert [record["error"] for record in result.records] == ["in the WAL" if volume == "with a WAL" else ""] * 2
        assert {record["state"] for record in result.records} == {"dead"} and result.err == b""
    assert len(gm(*read_only(path.parent, ["gm-history"])).records) == 2
    result = gm(*read_only(path.parent, ["gm-drop", "1"]), status=111)
    assert b"cannot write" in result.err and result.err.count(b"\n") == 1
    assert digests(path.parent) == before


def test_a_listing_whose_reader_is_slow_has_no_transaction_open(gm, path):
    gm("gm-bury", "-q", input=b"".join(line(n) for n in range(3000)))
    listing = gm.start("gm-dead", stdout=subprocess.PIPE)
    first = listing.stdout.readline()
    with gm.database(timeout=20) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0   # nobody reads an older state
        db.execute("DELETE FROM job WHERE id > 2000")
    gm("gm-bury", "-q", input=line(5000))   # after its start: not in it
    rest = [json.loads(found) for found in listing.stdout]
    assert listing.wait(20) == 0 and json.loads(first)["id"] == 1
    assert 1000 < len(rest) < 3000 and rest[-1]["id"] <= 3000


# ---- indexes


def plans(path, use):
    """How SQLite goes about each SELECT of use(store) that has a WHERE."""
    opened = file.Store(str(path), readonly=True)
    seen = []
    opened.db.set_trace_callback(seen.append)
    use(opened)
    opened.db.set_trace_callback(None)
    wanted = [sql for sql in seen if sql.startswith("SELECT") and "WHERE" in sql]
    found = [" / ".join(row[3] for row in opened.db.execute("EXPLAIN QUERY PLAN " + sql)) for sql in wanted]
    opened.close()
    assert found
    return found


@pytest.mark.parametrize("selector, index", [
    ({"function": "f"}, "job_function"), ({"function": "[f]"}, "job_function"), ({"unique": "u1"}, "job_unique"),
    ({"fingerprint": "0123456789ab"}, "job_fingerprint")], ids=str)
def test_a_look_up_does_not_scan(gm, path, selector, index):
    gm("gm-bury", "-q", input=b"".join(line(n) for n in range(50)) + line(50, "g"))
    for plan in plans(path, lambda opened: list(selection.jobs(opened, {"state": "dead", **selector}))):
        assert f"SEARCH job USING INDEX {index}" in plan and "SCAN" not in plan and "TEMP B-TREE" not in plan, plan


def test_pages_and_groups_go_along_an_index(gm, path):
    gm("gm-bury", "-q", input=b"".join(line(n) for n in range(50)))
    for plan in plans(path, lambda opened: list(selection.jobs(opened, {"state": "dead"}))):
        assert plan == "SEARCH job USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
    for selectors in ({}, {"function": "f"}, {"reason": "error"}, {"since": 0}):
        for plan in plans(path, lambda opened: list(selection.causes(opened, {"state": "dead", **selectors}))):
            assert "job USING INDEX job_cause" in plan.replace("COVERING ", "") and "GROUP BY" not in plan, plan
    for plan in plans(path, lambda opened: list(audit.audit(opened, {"key": "0" * 32}))):
        assert "USING INDEX audit_key" in plan and "SCAN" not in plan


@pytest.mark.slow(10)
def test_memory_does_not_grow_with_the_file(gm, path):
    gm("gm-bury", "-q", input=line(0))
    with gm.database() as db:
        names = [name for _, name, *_ in db.execute("PRAGMA table_info(job)") if name not in ("id", "key")]
        db.execute(f"INSERT INTO job (key, {', '.join(names)}) WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n "
                   f"WHERE x < 60000) SELECT printf('%032x', x), {', '.join(names)} FROM n, job")
    for options in ([], ["--group"], ["-m", "no such"]):
        usage = gm(sys.executable, "-c", PEAK, "gm-dead", *options).out.split()
        assert int(usage[-1]) < 50 << 10, options


PEAK = ("import resource, subprocess, sys\nsubprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n")
