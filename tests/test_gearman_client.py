"""The client: every kind of answer ends a wait, and a server that drips is a silent one."""

from __future__ import annotations

import contextlib
import json
import sys
import time

import pytest
from conftest import until
from gearman_peers import (
    COMPLETE,
    CREATED,
    DATA,
    ERROR,
    EXCEPTION,
    FAIL,
    OPTION_REQ,
    SUBMIT_JOB,
    WARNING,
    Raw,
    Relay,
    Server,
    frame,
    requests,
)

from libgm.gearman import address
from libgm.gearman.client import Submitter
from libgm.gearman.connection import ServerLost

PEER = """
import sys
from python3_gearman.worker import GearmanWorker

class Worker(GearmanWorker):
    def on_job_exception(self, job, exc_info):
        {told}
        return False

def work(worker, job):
    raise ValueError("no such photo")

worker = Worker([sys.argv[1]])
worker.register_task("f", work)
worker.work()
"""


def wait_for(server, **options):
    """What comes of a job that is waited for: (ok, result, warning), or the ServerLost."""
    results: list = []
    submitter = Submitter(address.parse_servers(str(server)), wait=True, on_result=lambda item, *said: results.append(said[:3]),
                          on_refuse=lambda item, error: results.append(error))
    with contextlib.closing(submitter):
        submitter.submit(b"f", b"u", b"x", "normal", None, **options)
        submitter.finish()
    return results[0]


@pytest.mark.slow
@pytest.mark.parametrize("answers, status, record", [
    ([(COMPLETE, b"done")], 0, {"result": "done"}),
    ([(DATA, b"part "), (COMPLETE, b"done")], 0, {"result": "part done"}),
    ([(FAIL,)], 1, {"error": "failed"}),
    ([(WARNING, b"disk full\n"), (FAIL,)], 1, {"error": "disk full"}),
    ([(EXCEPTION, b"Traceback\nValueError: no such photo")], 1, {"error": "ValueError: no such photo"}),
    ([(WARNING, b"disk full\n"), (EXCEPTION, b"")], 1, {"error": "disk full"})])
def test_every_answer_of_a_foreign_worker_ends_a_wait(gm, memory_gearmand, answers, status, record):
    client = gm.start("gm-submit", "--wait", "-u", "u", "f", "/dev/null")
    worker = Raw(memory_gearmand.server)
    handle = worker.grab(b"f")[0]
    for kind, *fields in answers:
        worker.say(kind, handle, *fields)
    assert client.wait(20) == status
    shown = json.loads(client.out_path.read_bytes())
    assert {name: shown[name] for name in record} == record and client.err_path.read_bytes() == b""
    worker.close()


@pytest.mark.parametrize("told, error", [
    ("self.send_job_failure(job)", "failed"),
    ("self.send_job_exception(job, 'ValueError: ' + str(exc_info[1]))", "ValueError: no such photo")])
def test_a_worker_of_python3_gearman_that_raises(gm, memory_gearmand, told, error):
    gm.start(sys.executable, "-c", PEER.format(told=told), memory_gearmand.server)
    record, = gm("gm-submit", "--wait", "f", input=b"x\n", status=1).records
    assert record["error"] == error


def test_a_failure_with_a_nul_behind_its_handle(gm):
    """How gearmand passes an exception to a client that did not ask for exceptions."""
    def serve(connection):
        for kind, _ in requests(connection):
            if kind == SUBMIT_JOB:
                connection.sendall(frame(CREATED, b"H:1") + frame(FAIL, b"H:1", b""))
    with contextlib.closing(Server(serve)) as server:
        assert wait_for(server) == (False, b"", b"")


def test_a_failure_behind_an_exception_comes_too_late(gm):
    """As Perl's Gearman::Server passes both on."""
    def serve(connection):
        for kind, _ in requests(connection):
            if kind == SUBMIT_JOB:
                connection.sendall(frame(CREATED, b"H:1") + frame(EXCEPTION, b"H:1", b"why") + frame(FAIL, b"H:1"))
    with contextlib.closing(Server(serve)) as server:
        assert wait_for(server) == (False, b"", b"why")


def test_a_server_that_knows_no_exceptions_refuses_no_job(gm):
    def serve(connection):
        for kind, _ in requests(connection):
            if kind == OPTION_REQ:
                connection.sendall(frame(ERROR, b"UNKNOWN_OPTION", b"Server does not recognize given option"))
            else:
                connection.sendall(frame(CREATED, b"H:1") + frame(COMPLETE, b"H:1", b"done"))
    with contextlib.closing(Server(serve)) as server:
        assert wait_for(server) == (True, b"done", b"")


@pytest.mark.slow
def test_a_server_that_dies_ends_a_wait(gm, memory_gearmand):
    client = gm.start("gm-submit", "--wait", "f", "/dev/null", env={"GM_TIMEOUT": "1"})
    until(lambda: memory_gearmand.waiting(b"f") == 1)
    memory_gearmand.kill()
    assert client.wait(20) == 111
    assert client.err_path.read_bytes().count(b"\n") == 1 and b"of 1 the result is not known" in client.err_path.read_bytes()


@pytest.mark.parametrize("waited", [False, True])
def test_a_server_that_drips_is_silent(monkeypatch, waited):
    monkeypatch.setenv("GM_TIMEOUT", "0.5")
    dripped, acknowledged = [], frame(CREATED, b"H:" + b"1" * 30)

    def serve(connection):
        for kind, _ in requests(connection):
            for byte in acknowledged if kind != OPTION_REQ else b"":
                dripped.append(byte)
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
    with contextlib.closing(Server(serve)) as server:
        submitter = Submitter([server.address], wait=waited)
        submitter.submit(b"f", b"u", b"x", "normal", None)
        with pytest.raises(ServerLost, match=r": no answer in 0\.5 s$"):
            submitter.finish()
        submitter.close()
        assert 0 < len(dripped) < len(acknowledged)


@pytest.mark.parametrize("options", [(), ("--wait",)])
def test_gm_submit_gives_up_a_server_that_drips(gm, memory_gearmand, options):
    relay = Relay(gm, memory_gearmand.port)
    relay.set("drip")
    result = gm("gm-submit", "-s", relay.server, *options, "f", input=b"x\n", env={"GM_TIMEOUT": "0.5"}, status=111)
    assert result.err == f"gm-submit: {relay.server}: no answer in 0.5 s".encode() + \
        b": of 1 the result is not known" * bool(options) + b"\n"


def test_an_error_that_nothing_was_asked_for_is_shown(capfd):
    def serve(connection):
        for kind, _ in requests(connection):
            if kind == SUBMIT_JOB:
                connection.sendall(frame(CREATED, b"H:1") + frame(ERROR, b"SHUTDOWN", b"going down\0"))
                connection.sendall(frame(COMPLETE, b"H:1", b""))
    with contextlib.closing(Server(serve)) as server:
        assert wait_for(server) == (True, b"", b"")
        assert capfd.readouterr().err.endswith(f": {server}: the server refused it: SHUTDOWN: going down\n")


def test_a_name_keeps_to_its_server_whatever_the_unique(memory_gearmand, new_gearmand):
    """Jobs that travel under another unique each time are merged by nobody, but stay with the server of their own one."""
    other = new_gearmand(None)
    servers, where = address.parse_servers(f"{memory_gearmand.server},{other.server}"), {}
    submitter = Submitter(servers, on_accept=lambda item, handle, server: where.setdefault(item, set()).add(server))
    for name in range(20):
        for send in range(5):
            submitter.submit(b"f", b"~%d-%d" % (name, send), b"x", "normal", name, name=b"%d" % name)
        submitter.submit(b"f", b"%d" % name, b"x", "normal", name)
    submitter.finish()
    submitter.close()
    assert all(len(found) == 1 for found in where.values()) and len(set.union(*where.values())) == 2
