"""The quarantine file itself: versions, refusals, many writers, slow readers, volumes, indexes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
from conftest import ROOT, until
from helpers import digests, read_only

from libgm.errors import Replaced, Unavailable
from libgm.quarantine import audit, claims, file, jobs, overview, payloads, processes, schema, selection, starts

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


# What gm-bury of version 2 does for each number on its standard input, with the file open all the while.
OLDER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
for number in sys.stdin:
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO job (state, key, function, unique_, priority, reason, error, stderr, exit, signal, attempts, "
               "requeues, first_failed, last_failed, due, servers, server, handle, host, fingerprint, payload_file, data) "
               "VALUES ('dead', ?, 'f', 'u', 'normal', 'error', 'why', NULL, 1, NULL, 3, 0, 1, 2, NULL, NULL, 's', 'h', 'h', "
               "'0123456789ab', NULL, ?) ON CONFLICT (key) DO UPDATE SET revision = revision + 1, claim = NULL, nonce = NULL",
               (f"{int(number):012}" + "f" * 20, number))
    db.execute("INSERT INTO audit (time, action, user, host, job, revision, key, function, unique_, reason, error, fingerprint) "
               "VALUES (1, 'bury', 'me', 'here', 1, 1, '', 'f', 'u', 'error', 'why', '')")
    db.execute("COMMIT")
"""


@pytest.fixture
def older(gm, tmp_path):
    """older(path) starts what a gearmang of before does."""
    script = tmp_path / "older.py"
    script.write_text(OLDER)
    return lambda path: gm.start(sys.executable, script, path, stdin=subprocess.PIPE)


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
    """Older ones that have the file open go on while it is migrated and afterwards."""
    burying = [older(version_1) for _ in range(4)]

    def feed(first):
        for n, process in enumerate(burying):
            process.stdin.write(b"%d\n" % (first + n))
            process.stdin.flush()
    feed(10)
    until(lambda: len(gm("gm-dead").records) == 2 + 4)
    assert version(version_1) == 1
    newer = [gm.start("gm-bury", stdin=subprocess.PIPE) for _ in range(4)]
    for n, process in enumerate(newer):
        process.stdin.write(line(1000 + n))
        process.stdin.flush()
        feed(20 + 10 * n)
    until(lambda: version(version_1) == schema.VERSION)
    feed(200)
    feed(10)   # jobs that are there die again
    for process in burying + newer:
        process.stdin.close()
        assert process.wait(20) == 0 and process.err_path.read_bytes() == b""
    records = gm("gm-dead").records
    assert len(records) == 2 + 4 * 6 + 4 and sum(record["revision"] for record in records) == len(records) + 4
    assert {record["sends"] for record in records} == {0} and len(gm("gm-history", "--action=bury").records) == 4 * 7 + 4
    gm("gm-drop", *(record["id"] for record in records[:7]))
    with contextlib.closing(file.Store(str(version_1), readonly=True)) as opened:
        assert jobs.count(opened, "dead") == len(records) - 7


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
        os.utime(path, (0, 0))   # nobody is making it any more
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


def test_network_file_systems_and_mounted_files_are_refused(tmp_path):
    table = tmp_path / "mountinfo"
    table.write_text("22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
                     "30 22 0:40 / /srv/nfs rw - nfs4 server:/export rw\n"
                     "31 30 0:41 / /srv/nfs/local rw - xfs /dev/sdb rw\n"
                     "32 22 0:42 / /mnt/with\\040space rw - fuse.sshfs host: rw\n"
                     "33 22 0:43 / /nfs rw shared:7 - cifs //host/share rw\n"
                     "34 22 254:0 /q.db /srv/q.db rw - ext4 /dev/vda rw\n")
    for path, why in (("/srv/nfs/q.db", "nfs4"), ("/mnt/with space/q.db", "fuse.sshfs"), ("/nfs/a/b", "cifs"),
                      ("/srv/q.db", "is a mount point")):
        with pytest.raises(Unavailable, match=why):
            file.check_place(path, str(table))
    for path in ("/srv/nfs/local/q.db", "/srv/nfsx/q.db", "/q.db", "/srv/q.db-other"):
        file.check_place(path, str(table))
    file.check_place(str(tmp_path))


# ---- a file that is not the file any more


@pytest.fixture
def store(path):
    """The file, opened by this process, which is in it."""
    opened = file.Store(str(path), create=True)
    processes.join(opened, "test")
    yield opened
    opened.close()


def dead(number=1, **fields):
    """A row."""
    return jobs.row(**{"key": f"{number:012x}", "function": b"f", "unique_": b"u", "data": b"%d" % number, "reason": "error",
                       "error": "why", "first_failed": 1, "last_failed": 2, **fields})


@pytest.mark.parametrize("how", ["removed", "replaced", "link"])
def test_a_transaction_that_went_to_another_file_is_an_error(path, tmp_path, how):
    if how == "link":
        file.Store(str(path), create=True).close()
        (tmp_path / "link").symlink_to(path)
        (tmp_path / "other").touch()
    opened = file.Store(str(tmp_path / "link" if how == "link" else path), create=True)
    with opened.transaction():
        jobs.set_aside(opened, dead())
    if how == "link":
        os.unlink(tmp_path / "link")
        (tmp_path / "link").symlink_to(tmp_path / "other")
    else:
        path.rename(tmp_path / "old")
        if how == "replaced":
            path.touch()
    why = "replaced while in use: stop all, remove -wal and -shm, start again"
    with pytest.raises(Replaced, match=why), opened.transaction():
        jobs.set_aside(opened, dead(2))
    opened.close()


def test_tools_that_change_the_file_see_that_it_is_another(gm, gearmand, path, tmp_path):
    for tool, lines in (("gm-drop", (b'{"id":1}\n', b'{"id":2}\n')), ("gm-requeue", (b'{"id":1}\n', b'{"id":2}\n')),
                        ("gm-bury", (line(7), line(8)))):
        gm("gm-bury", "-q", input=line(1) + line(2))
        process = gm.start(tool, stdin=subprocess.PIPE)
        process.stdin.write(lines[0])
        process.stdin.flush()
        until(lambda: process.out_path.read_bytes().count(b"\n") == 1)
        path.rename(tmp_path / f"{tool}.old")
        for side in ("-wal", "-shm"):
            (path.parent / f"{path.name}{side}").unlink()
        process.stdin.write(lines[1])
        process.stdin.close()
        assert process.wait(20) == 111
        assert b"q.db: replaced while in use" in process.err_path.read_bytes(), tool
        assert process.out_path.read_bytes().count(b"\n") == 1


def test_a_missing_file_is_what_a_new_user_has(gm, tmp_path):
    env = {"GM_QUARANTINE": str(tmp_path / "nowhere" / "q.db")}
    for args in (["gm-dead"], ["gm-requeue", "1"]):
        assert b"q.db: no such file: nothing was quarantined yet, or set GM_QUARANTINE" in gm(*args, env=env, status=111).err
    result = gm("gm-bury", input=line(1), env=env, status=111)
    assert result.err == f"gm-bury: {env['GM_QUARANTINE']}: cannot make it: there is no folder {tmp_path}/nowhere\n".encode()


def test_gm_collect_answers_nothing_that_is_in_another_file(gm, gearmand, path, tmp_path):
    collector = gm.start("gm-collect")
    gm("gm-submit", "-q", "gearmang", input=b"1\n")
    until(lambda: collector.out_path.read_bytes().count(b"\n") == 1)
    path.rename(tmp_path / "old")
    gm("gm-submit", "-q", "gearmang", input=b"2\n")
    assert collector.wait(20) == 111 and b"replaced while in use" in collector.err_path.read_bytes()
    until(lambda: gearmand.waiting(b"gearmang") == 1)


@pytest.mark.slow
def test_gm_drain_answers_nothing_that_is_in_another_file(gm, gearmand, path, tmp_path):
    gm("gm-submit", "-q", "f", input=b"".join(b"%d\n" % number for number in range(3000)))
    drain = gm.start("gm-drain", "f")
    until(lambda: drain.out_path.stat().st_size, longest=0.005)
    for side in ("", "-wal", "-shm"):
        (path.parent / f"{path.name}{side}").rename(tmp_path / f"moved.db{side}")
    assert drain.wait(30) == 111 and b"replaced while in use" in drain.err_path.read_bytes()
    until(lambda: gearmand.status()[b"f"][1] == 0)
    printed = drain.out_path.read_bytes().count(b"\n")
    kept = gm("gm-dead", f"--quarantine={tmp_path}/moved.db").out.count(b"\n")
    assert 0 < printed <= kept and gearmand.waiting(b"f") == 3000 - printed   # the others are not answered


def test_no_retry_is_released_from_a_file_that_was_moved_away(gm, gearmand, path, tmp_path):
    """The row is still in it: whoever puts it back would have the job twice."""
    gm("gm-submit", "-q", "f", input=b"x\n")
    gm("gm-work", "-q", "--until-empty", "--delay=1h", "f", "--", "false")
    gm.start("gm-work", "-q", "--max-delay=1h", "other", "--", "true")
    until(lambda: [row for row in gm("gm-status", "--workers").records if row.get("tool") == "gm-work releaser"])
    for side in ("", "-wal", "-shm"):
        (path.parent / f"{path.name}{side}").rename(tmp_path / f"moved.db{side}")
    with gm.database(tmp_path / "moved.db") as db:
        db.execute("UPDATE job SET due = 1")
    until(path.exists, what="another releaser has begun, with a new file")
    assert gearmand.waiting(b"f") == 0
    assert [record["data"] for record in gm("gm-dead", "--delayed", f"--quarantine={tmp_path}/moved.db").records] == ["x"]


def test_a_process_whose_row_is_gone_is_in_the_file_again(gm, path, store):
    """As after .restore of sqlite3's, with the file open in other processes."""
    first = store.rows("SELECT * FROM process")
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM process")
        db.execute("UPDATE sqlite_sequence SET seq = 0")
    db.close()
    assert gm("gm-drop", "1", status=1)   # a newcomer: the id that the file offers is a living process's
    with store.transaction():
        jobs.set_aside(store, dead())
    assert store.rows("SELECT * FROM process") == first
    with sqlite3.connect(path) as db:   # another one's row under our id
        db.execute("UPDATE process SET pid = 1, started = 1")
    db.close()
    with store.transaction():
        pass
    assert store.rows("SELECT * FROM process") == first


# ---- identity


@pytest.mark.parametrize("size, state", [(10, "delayed"), (65 << 20, "dead")], ids=["small", "in a file"])
def test_two_accepted_jobs_never_share_a_row(gm, gearmand, path, size, state):
    """They are alike in function, unique and payload, and in their handle too, since the server was started again."""
    payload = gm.home / "payload"
    payload.write_bytes(b"x" * size)
    for _ in range(2):
        gm("gm-submit", "-q", "-u", "charge-7", "bill", payload)
        gm("gm-work", "-q", "--until-empty", "--delay=1h", "bill", "--", "false")
        gearmand.stop()
        gearmand.start()
    with gm.database() as db:
        found = db.execute("SELECT state, handle, payload_file, key FROM job").fetchall()
    first, second = found
    assert first[:2] == second[:2] and first[0] == state and first[3] != second[3]
    if size > 10:
        assert first[2] != second[2] and all(os.path.getsize(row[2]) == size for row in found)


def keys(store):
    return [(ident, revision, key, sends) for ident, revision, key, sends in
            store.rows("SELECT id, revision, key, sends FROM job ORDER BY id")]


def test_a_row_is_updated_only_by_the_same_job_sent_since(store):
    with store.transaction():
        assert jobs.set_aside(store, dead(sends=4)) == 1
        assert jobs.set_aside(store, dead(sends=5)) == 1
        for other in (dead(sends=5), dead(sends=3), dead(sends=9, data=b"other"), dead(sends=9, function=b"g"),
                      dead(sends=9, payload_digest="ab")):
            ident = jobs.set_aside(store, other)
            assert ident > 1 and keys(store)[-1][0] == ident
    found = keys(store)
    assert found[0] == (1, 2, f"{1:012x}", 5) and len(found) == 6 == len({key for _, _, key, _ in found})
    with store.transaction():
        assert jobs.set_aside(store, dead(sends=(5 + 2047) % 4096)) == 1   # numbers begin again
    assert store.rows("SELECT count(*) FROM sqlite_sequence WHERE name = 'job' AND seq = 6") == [(1,)]


def test_an_update_takes_claim_and_number_away(store):
    with store.transaction():
        jobs.set_aside(store, dead())
        claims.claim(store, {1: 1}, "requeue")
        jobs.set_aside(store, dead(sends=1))
    assert store.rows("SELECT claim, claim_sends, claim_digest, revision FROM job") == [(None, None, None, 2)]


def test_a_row_of_the_version_before_is_the_same_job(store):
    with store.transaction():
        store.execute("INSERT INTO job (state, key, function, unique_, data) VALUES ('delayed', ?, 'f', 'u', '1')",
                      (f"{1:012x}" + "ab" * 10,))
        assert jobs.set_aside(store, dead(sends=1)) == 1
    assert keys(store) == [(1, 2, f"{1:012x}", 1)]


def test_numbers_of_sending(store):
    assert claims.number(0, None, None, "requeue") == 1 and claims.number(4095, None, None, "requeue") == 0
    assert claims.number(0, 1, "requeue", "requeue") == 1          # void: what is sent again merges with the first copy
    assert claims.number(0, 1, "requeue", "requeue --wait") == 2   # another way: it must not
    assert claims.number(0, 1, None, "requeue") == 2               # the copy has ended
    assert claims.number(7, 1, None, "requeue") == 8 and claims.number(1, 4095, "retry", "requeue") == 2


def test_a_release_repeats_its_number_until_it_ends(store):
    with store.transaction():
        for number in (1, 2):
            jobs.set_aside(store, dead(number, state="delayed", due=5.0, servers="s"))
    for _ in range(2):   # it could not finish, and begins again: what it had claimed is void
        claimed = claims.claim_due(store, "s", 10.0, 20.0)
        assert [(found["id"], found["sends"]) for found in claimed] == [(1, 1), (2, 1)]
    claims.give_back(store, [2])
    assert [(found["id"], found["sends"]) for found in claims.claim_due(store, "s", 10.0, 20.0)] == [(1, 1), (2, 2)]
    with store.transaction():
        jobs.set_aside(store, dead(1, sends=1))   # it died again meanwhile
    claims.remove_released(store, claimed)
    assert keys(store) == [(1, 2, f"{1:012x}", 1)]


class Attempt:
    """What starts.begin() wants to know of a job in hand."""

    def __init__(self, run, key=0):
        from types import SimpleNamespace

        from libgm.wire import Header
        self.run, self.identity, self.unique, self.handle, self.server, self.before = run, b"i", b"u", "H:1", "s", 0
        self.assigned, self.header = SimpleNamespace(function=b"f"), Header(key)


def past_of(store, *changes):
    """What starts.past() tells of a start of a process that died, after these changes of it."""
    other = file.Store(store.path)
    other.process = 7   # whom nothing in FILE-alive keeps alive
    with other.transaction():
        attempt = Attempt(1)
        starts.begin(other, attempt)
        for change, *arguments in changes:
            change(other, 1, *arguments)
    other.close()
    return attempt.header.key, starts.past(store, b"i")


def test_a_start_keeps_the_key_that_it_makes(store):
    key, past = past_of(store)
    assert key and past.key == key and (past.lost, past.settled, past.next) == (1, False, None)
    with store.transaction():
        starts.begin(store, Attempt(5, key=9))
        starts.forget(store, b"i")
    assert starts.past(store, b"i") is None and store.rows("SELECT run, key FROM start") == [(5, f"{9:012x}")]


def test_a_settled_start_gives_no_key_and_counts_nothing(store):
    _, past = past_of(store, (starts.settle,))
    assert past.settled and past.key is None and past.attempts == 0
    with store.transaction():
        starts.forget(store, b"i")
    assert starts.past(store, b"i") is None


def test_a_start_tells_what_was_about_to_be_sent(store):
    with store.transaction():
        starts.begin(store, Attempt(1))
    starts.will_send(store, 1, b"~next")
    with store.transaction():
        store.execute("UPDATE start SET process = 7")
    past = starts.past(store, b"i")
    assert past.next == b"~next" and past.lost == 1


def test_a_machine_that_went_down_makes_careful_once(store):
    assert not starts.careful(store)
    with store.transaction():
        store.execute_many("INSERT INTO process (id, tool, host, started, boot) VALUES (?, 'gm-work', 'h', 1, ?)",
                           [(70, "another"), (71, processes.boot())])
    starts.sweep(store)   # which takes what died on this boot alone
    assert starts.careful(store) and store.rows("SELECT id FROM process WHERE id > 69") == [(70,)]
    starts.mark_seen(store)
    assert not starts.careful(store)
    starts.sweep(store)
    assert store.rows("SELECT id FROM process WHERE id > 69") == []


def test_one_suspect_at_a_time(gm, path, store):
    assert processes.try_suspect(store)
    script = (f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom libgm.quarantine import file, processes\n"
              f"print(processes.try_suspect(file.Store({str(path)!r})))\n")
    assert gm(sys.executable, "-c", script).out == b"False\n"
    processes.end_suspect(store)
    assert gm(sys.executable, "-c", script).out == b"True\n"


@pytest.mark.parametrize("name", ["q.db-payload-7.1", "/elsewhere/q.db-payload-7.1"])
def test_a_payload_that_a_row_names_is_not_swept(store, path, name):
    named, left = path.with_name("q.db-payload-7.1"), path.with_name("q.db-payload-7.2")
    for found in (named, left):
        found.write_bytes(b"x")
    with store.transaction():
        jobs.set_aside(store, dead(payload_file=name))
    payloads.sweep(store)
    assert named.exists() and not left.exists()
    payloads.discard(store, str(named))
    assert named.exists()


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


def test_whoever_makes_the_file_waits_for_another_that_does(path):
    file.make(str(path))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, other.execute, ["COMMIT"])
        timer.start()
        file.Store(str(path), create=True).close()
        timer.join()


def test_a_reader_waits_while_the_file_is_made(path):
    """As where a disk that is busy takes its time: a look at the first worker's file is no failure."""
    file.make(str(path))
    timer = threading.Timer(1, lambda: file.Store(str(path), create=True).close())
    timer.start()
    file.Store(str(path), readonly=True).close()
    timer.join()


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


@pytest.mark.parametrize("look", [
    lambda opened: overview.functions(opened, 1e9, 5.0), lambda opened: overview.died_since(opened, 1.0), overview.known,
    selection.functions, jobs.dead_of_each, lambda opened: jobs.count(opened, "dead"), payloads.named], ids=[
    "functions", "died_since", "known", "names", "dead_of_each", "count", "payloads"])
def test_what_gm_status_asks_takes_no_time_per_job(gm, path, look):
    gm("gm-bury", "-q", input=b"".join(line(n) for n in range(50)) + line(50, "g"))
    for plan in plans(path, look):
        assert not re.search("SCAN (job|j|audit)(?! USING COVERING INDEX job_(payload|held))", plan), plan


@pytest.mark.parametrize("selector, index", [
    ({"function": "f"}, "job_function"), ({"function": "[f]"}, "job_function"), ({"unique": "u1"}, "job_unique"),
    ({"fingerprint": "0123456789ab"}, "job_fingerprint")], ids=str)
def test_a_look_up_does_not_scan(gm, path, selector, index):
    gm("gm-bury", "-q", input=b"".join(line(n) for n in range(50)) + line(50, "g"))
    for plan in plans(path, lambda opened: list(selection.jobs(opened, {"state": "dead", **selector}))):
        if plan == "SCAN kept":   # which functions a glob matches
            continue
        assert f"SEARCH job USING INDEX {index}" in plan and "SCAN" not in plan and "TEMP B-TREE" not in plan, plan


def test_pages_and_groups_go_along_an_index(gm, path):
    gm("gm-bury", "-q", input=b"".join(line(n) for n in range(50)))
    for plan in plans(path, lambda opened: list(selection.jobs(opened, {"state": "dead"}))):
        assert plan == "SEARCH job USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"
    for selectors in ({}, {"function": "f"}, {"reason": "error"}, {"since": 0}):
        for plan in plans(path, lambda opened: list(selection.causes(opened, {"state": "dead", **selectors}))):
            assert "job USING INDEX job_cause" in plan.replace("COVERING ", "") and "GROUP BY" not in plan, plan
    for plan in plans(path, lambda opened: list(audit.entries(opened, {"key": "0" * 12}))):
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
