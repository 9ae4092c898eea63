"""gm-server: a gearmand whose queue survives."""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SBIN, free_port, until

from libgm.units import counted


def mode(path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def query(store, sql, *values):
    database = sqlite3.connect(store, isolation_level=None)
    try:
        return database.execute(sql, values).fetchall()
    finally:
        database.close()


def submit(gm, server, function, payload: bytes):
    """A background job by the C client: these tests are about the server alone."""
    gm("gearman", "-h", "127.0.0.1", "-p", server.port, "-b", "-f", function, input=payload)


def work(gm, server, function, count: int) -> bytes:
    return gm("gearman", "-h", "127.0.0.1", "-p", server.port, "-w", "-c", count, "-f", function, "--",
              "tee", "-a", "done").out


def refused(gm, *args, status) -> bytes:
    """The one line with which gm-server refuses."""
    result = gm("gm-server", *args, status=status, timeout=10)
    assert result.out == b"" and result.err.count(b"\n") == 1, result
    return result.err


def starting(server, jobs: int) -> bytes:
    """The line with which gm-server starts."""
    return f"gm-server: {server.server}: starting gearmand, its queue in {server.store}: {counted(jobs, 'job')}\n".encode()


def test_jobs_survive_kill_9(gm, gearmand, tmp_path):
    payloads = [b"%d \xff\0" % n for n in range(50)]
    for payload in payloads:
        submit(gm, gearmand, "f", payload)
    gearmand.kill()
    gearmand.start()
    assert gearmand.waiting(b"f") == 50
    work(gm, gearmand, "f", 50)
    assert (tmp_path / "done").read_bytes() == b"".join(payloads)
    assert gearmand.waiting(b"f") == 0


def test_stops_in_order_on_sigterm(gearmand):
    submit(gearmand.gm, gearmand, "f", b"x")
    assert gearmand.stop() == 0
    assert gearmand.process.err_path.read_bytes() == starting(gearmand, 0)
    gearmand.start()
    assert gearmand.waiting(b"f") == 1 and gearmand.process.err_path.read_bytes() == starting(gearmand, 1)


def test_it_is_gearmand_itself_that_runs(gearmand):
    """So that a supervisor's signals reach it."""
    assert gearmand.admin(b"getpid\n").split() == [b"OK", b"%d" % gearmand.process.pid]


def test_store_is_wal_and_private_under_any_umask(gm, new_gearmand, tmp_path):
    for umask in (0o000, 0o777):
        old = os.umask(umask)
        try:
            server = new_gearmand(f"{umask}.db")
        finally:
            os.umask(old)
        submit(gm, server, "f", b"x")
        for suffix in ("", "-wal", "-shm"):
            assert mode(f"{server.store}{suffix}") == 0o600
        assert not mode(f"{server.store}.lock") & 0o077
        assert query(server.store, "PRAGMA journal_mode") == [("wal",)]


def test_existing_store_is_switched_to_wal_and_keeps_its_mode(gm, gearmand):
    submit(gm, gearmand, "f", b"x")
    gearmand.stop()
    query(gearmand.store, "PRAGMA journal_mode=DELETE")
    os.chmod(gearmand.store, 0o640)
    gearmand.start()
    assert query(gearmand.store, "PRAGMA journal_mode") == [("wal",)]
    assert mode(gearmand.store) == 0o640
    assert gearmand.waiting(b"f") == 1


def test_empty_file_becomes_a_store(new_gearmand, tmp_path):
    (tmp_path / "empty.db").touch()
    new_gearmand("empty.db")


def test_store_with_an_empty_payload_starts_again(gm, gearmand, tmp_path):
    submit(gm, gearmand, "f", b"")
    submit(gm, gearmand, "f", b"full")
    assert query(gearmand.store, "SELECT count(*) FROM gearman_queue WHERE data IS NULL") == [(1,)]
    gearmand.kill()
    plain = gm.start("gearmand", "--listen=127.0.0.1", f"--port={gearmand.port}", "--log-file=stderr",
                     "--queue-type=libsqlite3", f"--libsqlite3-db={gearmand.store}",
                     f"--pid-file={tmp_path}/pid")
    assert plain.wait(10) != 0
    assert b"failed to reload queue" in plain.err_path.read_bytes()

    gearmand.start()
    said, start = gearmand.process.err_path.read_bytes().splitlines(True)
    assert said.startswith(b"gm-server: ") and said.rstrip().endswith(b": 1") and start == starting(gearmand, 2)
    assert gearmand.waiting(b"f") == 2
    work(gm, gearmand, "f", 2)
    assert (tmp_path / "done").read_bytes() == b"full"
    gearmand.stop()
    gearmand.start()
    assert gearmand.process.err_path.read_bytes() == starting(gearmand, 0)


@pytest.mark.slow
@pytest.mark.parametrize("column, value", [
    ("data", None), ("data", "text"), ("when_to_run", None), ("priority", None),
])
def test_rows_that_gearmand_does_not_start_on_are_repaired(gm, gearmand, tmp_path, column, value):
    submit(gm, gearmand, "f", b"text")
    gearmand.stop()
    query(gearmand.store, f"UPDATE gearman_queue SET {column} = ?", value)
    gearmand.start()
    assert gearmand.process.err_path.read_bytes().splitlines()[0].endswith(b": 1")
    work(gm, gearmand, "f", 1)
    assert (tmp_path / "done").read_bytes() == (b"" if (column, value) == ("data", None) else b"text")


def test_second_server_on_a_store_is_refused(gm, gearmand, tmp_path):
    (tmp_path / "link.db").symlink_to(gearmand.store)
    for store in (gearmand.store, tmp_path / "link.db"):
        error = refused(gm, f"--store={store}", f"--port={free_port()}", status=111)
        assert b"in use by another gm-server" in error
    gearmand.kill()
    gearmand.start()   # the lock went with its holder


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    ["-j", "3"], ["-j3"], ["-Rj3"], ["--job-retries=3"], ["--job-retries", "3"], ["--job-ret=3"],
    ["--store-queue-on-shutdown"], ["--store-queue"], ["--queue-type=builtin"], ["-q", "builtin"],
    ["--libsqlite3-db=x"], ["--libsqlite3-table=x"], ["--daemon"], ["-d"], ["-Rd"], ["--config-file=x"],
    ["-u", "nobody"], ["--round-robin", "-p1"],
], ids=" ".join)
def test_options_that_lose_jobs_or_are_its_own_are_refused(gm, tmp_path, words):
    error = refused(gm, f"--store={tmp_path}/s.db", "--", *words, status=2)
    assert b"is refused: " in error
    assert not (tmp_path / "s.db").exists()


def test_other_options_reach_gearmand(gm, new_gearmand, tmp_path):
    log = tmp_path / "log"
    server = new_gearmand("s.db", "-R", "--threads=2", "--job-handle-prefix", "H:here",
                          "--verbose=INFO", f"-l{log}")
    submit(gm, server, "f", b"x")
    assert b"H:here:" in server.admin(b"show jobs\n")
    assert b"Starting up" in log.read_bytes()
    assert server.process.err_path.read_bytes() == starting(server, 0)


def test_option_unknown_to_gearmand_is_reported_by_it(gm, tmp_path):
    result = gm("gm-server", f"--store={tmp_path}/s.db", f"--port={free_port()}", "--", "--nonsense",
                status=1)
    assert b"--nonsense" in result.err


def test_files_that_are_no_store_are_left_alone(gm, tmp_path):
    text = tmp_path / "text"
    text.write_bytes(b"not a database, " * 1000)
    assert b"not a database" in refused(gm, f"--store={text}", f"--port={free_port()}", status=111)
    assert text.read_bytes() == b"not a database, " * 1000
    refused(gm, f"--store={tmp_path}", f"--port={free_port()}", status=111)
    error = refused(gm, f"--store={tmp_path}/no-folder/s.db", f"--port={free_port()}", status=111)
    assert b"no-folder" in error


def test_damaged_store_is_refused(gm, gearmand):
    for n in range(60):
        submit(gm, gearmand, "f", b"%d" % n * 2000)
    gearmand.stop()
    with open(gearmand.store, "r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xaa" * 8192)
    before = gearmand.store.read_bytes()
    error = refused(gm, f"--store={gearmand.store}", f"--port={gearmand.port}", status=111)
    assert bytes(gearmand.store) in error
    assert gearmand.store.read_bytes() == before


def test_store_that_may_not_be_written(gm, gearmand, tmp_path):
    gearmand.stop()
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]   # else root may write everything
    server = [*(powerless if os.geteuid() == 0 else []), ROOT / "bin/gm-server", f"--port={gearmand.port}"]
    gearmand.store.chmod(0o400)
    result = gm(*server, f"--store={gearmand.store}", status=111)
    assert bytes(gearmand.store) in result.err and result.err.count(b"\n") == 1
    (tmp_path / "theirs").mkdir(0o500)
    result = gm(*server, f"--store={tmp_path}/theirs/s.db", status=111)
    assert b"theirs" in result.err and result.err.count(b"\n") == 1


def test_port_in_use(gm, gearmand, tmp_path):
    error = refused(gm, f"--store={tmp_path}/other.db", f"--port={gearmand.port}", status=111)
    assert b"127.0.0.1:%d: cannot listen: " % gearmand.port in error
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize("args", [
    ["--port=0"], ["--port=65536"], ["--port=x"], ["--prot=1"], ["--store"],
], ids=" ".join)
def test_bad_usage(gm, tmp_path, args):
    assert b"see gm-server --help" in refused(gm, *args, status=2)


def test_address_that_is_not_here(gm, tmp_path):
    error = refused(gm, f"--store={tmp_path}/s.db", "--listen=192.0.2.1", f"--port={free_port()}", status=111)
    assert b"192.0.2.1" in error


def answers(address, port) -> bool:
    try:
        with socket.create_connection((address, port), 1) as connection:
            connection.sendall(b"version\n")
            return connection.recv(100).startswith(b"OK")
    except OSError:
        return False


def test_listens_on_ipv6(gm, tmp_path):
    port = free_port()
    server = gm.start("gm-server", f"--store={tmp_path}/s.db", "--listen=::1", f"--port={port}")
    until(lambda: answers("::1", port))
    assert server.err_path.read_bytes().startswith(b"gm-server: [::1]:%d: starting gearmand" % port)


def test_default_store(gm, tmp_path):
    """Asked of the function: where /var/lib/gearmang is there, a server on it would be the machine's own."""
    code = "from libgm.tools import server; print(server.default_store(), end='')"
    env = {"XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    result = gm(sys.executable, "-c", code, env=env, status=None)
    system = Path("/var/lib/gearmang")
    if not system.is_dir():
        store = Path(os.fsdecode(result.out))
        assert store == tmp_path / "state/gearmang/gearmand.db" and mode(store.parent) == 0o700
    elif os.access(system, os.W_OK | os.X_OK):
        assert Path(os.fsdecode(result.out)) == system / "gearmand.db"
    else:
        assert b"use --store" in result.err


def test_gearmand_is_found_in_sbin_beyond_path(gm, tmp_path):
    sbin = SBIN.split(":") + ["/sbin"]
    path = ":".join(folder for folder in gm.env["PATH"].split(":") if folder not in sbin)
    port = free_port()
    server = gm.start("gm-server", f"--store={tmp_path}/s.db", f"--port={port}", env={"PATH": path})
    until(lambda: answers("127.0.0.1", port) or server.poll() is not None)
    assert server.poll() is None, server.err_path.read_bytes()


def test_machine_without_gearmand(gm, tmp_path):
    """The tool as it is, but that it finds no gearmand in the folders beyond PATH."""
    (tmp_path / "bin").mkdir()
    code = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0);"
            "from libgm.tools import server;"
            "server.SBIN = ''; runpy.run_path(sys.argv[0], run_name='__main__')")
    command = [sys.executable, "-c", code, ROOT, ROOT / "bin/gm-server", f"--store={tmp_path}/s.db"]
    env = {**gm.env, "PATH": str(tmp_path / "bin")}
    done = subprocess.run(command, env=env, capture_output=True, timeout=20)
    assert done.returncode == 127, done
    assert done.stderr.count(b"\n") == 1
    for package in (b"gearman-job-server", b"gearmand", b"brew"):
        assert package in done.stderr
    assert not (tmp_path / "s.db").exists()


SUBMIT_JOB_BG, JOB_CREATED, CAN_DO, GRAB_JOB_UNIQ, JOB_ASSIGN_UNIQ, WORK_COMPLETE = 18, 8, 1, 30, 31, 13


class Peer:
    """Somebody else's client and worker, a packet at a time."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.stream = self.socket.makefile("rb")

    def send(self, kind: int, *fields: bytes) -> None:
        body = b"\0".join(fields)
        self.socket.sendall(b"\0REQ" + struct.pack(">II", kind, len(body)) + body)

    def read(self, expected: int) -> list[bytes]:
        _, kind, size = struct.unpack(">4sII", self.stream.read(12))
        body = self.stream.read(size)
        assert kind == expected, (kind, body)
        return body.split(b"\0", 3)

    def submit(self, unique: bytes, data: bytes, function: bytes = b"f") -> None:
        self.send(SUBMIT_JOB_BG, function, unique, data)
        self.read(JOB_CREATED)

    def grab(self, function: bytes = b"f") -> tuple[bytes, bytes]:
        """(handle, payload) of the next job."""
        self.send(CAN_DO, function)
        self.send(GRAB_JOB_UNIQ)
        handle, *_, data = self.read(JOB_ASSIGN_UNIQ)
        return handle, data.rpartition(b"\0")[2]

    def done(self, handle: bytes) -> None:
        self.send(WORK_COMPLETE, handle, b"")


def payloads(store) -> list[bytes]:
    return [data for data, in query(store, "SELECT data FROM gearman_queue WHERE data IS NOT NULL ORDER BY data")]


UNIQUES = [b"", b"-", *(b"u" * 63 + last for last in (b"1", b"2", b"3"))]


def submit_twins(server, count: int = 3) -> tuple[Peer, list[bytes]]:
    """Jobs that gearmand's table would keep as one for each unique, in two functions, and their payloads."""
    peer, sent = Peer(server.port), []
    for number in range(count):
        for unique in UNIQUES[:2] + [UNIQUES[2 + number % 3]]:
            for function in (b"f", b"g"):
                sent.append(b"%b %b %d" % (unique, function, number))
                peer.submit(unique, sent[-1], function)
    return peer, sorted(sent)


@pytest.mark.slow
def test_jobs_that_share_a_name_all_survive_kill_9(gm, gearmand):
    peer, sent = submit_twins(gearmand)
    for function in (b"f", b"g"):
        assert gearmand.waiting(function) == 9
    for _ in range(3):
        gearmand.kill()
        gearmand.start()
        assert (gearmand.waiting(b"f"), gearmand.waiting(b"g")) == (9, 9)
    assert payloads(gearmand.store) == sent
    peer, seen = Peer(gearmand.port), []
    for function in (b"f", b"g"):
        for _ in range(9):
            handle, data = peer.grab(function)
            seen.append(data)
            peer.done(handle)
        peer.send(2, function)   # CANT_DO
    assert sorted(seen) == sent
    until(lambda: payloads(gearmand.store) == [], what="the store is empty")


def test_a_crash_after_some_twins_were_done_loses_none_of_the_others(gm, gearmand):
    _, sent = submit_twins(gearmand)
    worker = Peer(gearmand.port)
    done = []
    for _ in range(4):
        handle, data = worker.grab()
        worker.done(handle)
        done.append(data)
    worker.grab()   # its COMPLETE packets were handled before
    gearmand.kill()
    gearmand.start()
    assert set(payloads(gearmand.store)) >= set(sent) - set(done)
    assert query(gearmand.store, "SELECT count(*) FROM gm_twin") == [(0,)]


@pytest.mark.slow
def test_twins_that_are_all_done_leave_no_row(gm, gearmand):
    peer = Peer(gearmand.port)
    for number in range(50):
        peer.submit(b"", b"%d" % number)
    for number in range(50):
        handle, data = peer.grab()
        assert data == b"%d" % number
        peer.done(handle)
        if number % 10 == 0:
            peer.submit(b"-", b"x%d" % number, b"other")
    until(lambda: all(data.startswith(b"x") for data in payloads(gearmand.store)))
    assert query(gearmand.store, "SELECT unique_key, total, done FROM gm_twin") == [("-", 5, 0)]


def test_an_existing_store_is_made_to_keep_twins_apart(gm, gearmand, tmp_path):
    """A store as gearmand itself makes it, with a row that a released gearmang would not have renamed."""
    gearmand.stop()
    for end in ("", "-wal", "-shm"):
        Path(f"{gearmand.store}{end}").unlink(missing_ok=True)
    query(gearmand.store, "CREATE TABLE gearman_queue (unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, "
                          "when_to_run INTEGER, PRIMARY KEY (unique_key, function_name))")
    query(gearmand.store, "INSERT INTO gearman_queue VALUES ('', 'f', 1, ?, 0)", b"old")
    gearmand.start()
    peer = Peer(gearmand.port)
    for data in (b"new 1", b"new 2"):
        peer.submit(b"", data)
    gearmand.kill()
    gearmand.start()
    assert payloads(gearmand.store) == [b"new 1", b"new 2", b"old"] and gearmand.waiting(b"f") == 3


def test_a_store_with_twins_is_started_by_gm_server_only(gm, gearmand, tmp_path):
    submit_twins(gearmand)
    gearmand.kill()
    plain = gm.start("gearmand", "--listen=127.0.0.1", f"--port={gearmand.port}", "--log-file=stderr",
                     "--queue-type=libsqlite3", f"--libsqlite3-db={gearmand.store}", f"--pid-file={tmp_path}/pid")
    assert plain.wait(20) != 0 and b"failed to reload queue" in plain.err_path.read_bytes()
    gearmand.start()
    assert gearmand.process.err_path.read_bytes() == starting(gearmand, 18)


def test_of_very_many_twins_a_bounded_number_is_owed(tmp_path):
    """The statements are gearmand's."""
    sys.path.insert(0, str(ROOT))
    from libgm.tools import twins
    database = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    database.execute("BEGIN")
    twins.prepare(database)
    for number in range(twins.OWED + 500):
        database.execute("INSERT OR REPLACE INTO gearman_queue (priority, unique_key, function_name, data, when_to_run) "
                         "VALUES (1, '', 'f', ?, 0)", (b"%06d" % number,))
    for done in range(1, twins.OWED + 500):
        database.execute("DELETE FROM gearman_queue WHERE unique_key = '' AND function_name = 'f'")
        left = [int(data) for data, in database.execute("SELECT data FROM gearman_queue WHERE data NOT NULL ORDER BY data")] \
            if done % 250 == 0 else None
        if left is not None:   # in the order of the queue, what is done is what goes
            assert left == list(range(max(0, done - twins.OWED), twins.OWED + 500))
    database.execute("DELETE FROM gearman_queue WHERE unique_key = '' AND function_name = 'f'")
    for table in ("gearman_queue", "gm_twin", "gm_renamed"):
        assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    database.close()


def test_a_table_of_an_old_gearmand_is_a_store(gm, gearmand):
    gearmand.stop()
    query(gearmand.store, "DROP TABLE gearman_queue")
    query(gearmand.store, "CREATE TABLE gearman_queue (unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, "
                          "PRIMARY KEY (unique_key, function_name))")
    gearmand.start()
    submit(gm, gearmand, "f", b"x")
    assert payloads(gearmand.store) == [b"x"]


def test_a_database_of_something_else_is_no_store(gm, gearmand):
    gm("gm-work", "--until-empty", "f", "--", "cat")
    before = Path(gm.env["GM_QUARANTINE"]).read_bytes()
    error = refused(gm, f"--store={gm.env['GM_QUARANTINE']}", f"--port={free_port()}", status=111)
    assert b"a database of something else" in error and Path(gm.env["GM_QUARANTINE"]).read_bytes() == before


def test_a_hard_link_to_a_running_store_is_refused(gm, gearmand, tmp_path):
    os.link(gearmand.store, tmp_path / "link.db")
    error = refused(gm, f"--store={tmp_path}/link.db", f"--port={free_port()}", status=111)
    assert b"in use by another gm-server" in error


def test_files_made_in_a_shared_directory_belong_to_its_group(gm, new_gearmand, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    group = next(iter(set(os.getgroups()) - {os.getegid()}), os.getegid()) if os.geteuid() else 1
    os.chown(shared, -1, group)
    shared.chmod(0o2770)
    old = os.umask(0o077)
    try:
        server = new_gearmand("shared/s.db")
    finally:
        os.umask(old)
    submit(gm, server, "f", b"x")
    for end in ("", "-wal", "-shm", ".lock"):
        stat_of = os.stat(f"{server.store}{end}")
        assert (stat.S_IMODE(stat_of.st_mode), stat_of.st_gid) == (0o660, group)
