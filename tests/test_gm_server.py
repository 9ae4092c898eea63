"""gm-server: a gearmand whose queue survives."""

from __future__ import annotations

import os
import socket
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SBIN, free_port, until


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
    return f"gm-server: {server.server}: starting gearmand, its queue in {server.store}: {jobs} jobs\n".encode()


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
    store = Path(os.fsdecode(gm(sys.executable, "-c", code, env=env).out))
    system = Path("/var/lib/gearmang")
    if system.is_dir() and os.access(system, os.W_OK | os.X_OK):
        assert store == system / "gearmand.db"
    else:
        assert store == tmp_path / "state/gearmang/gearmand.db"
        assert mode(store.parent) == 0o700


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
