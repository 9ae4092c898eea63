"""The worker's connections: slow, dripping and dying servers, answers of any size, uniques of 64 bytes, errors at once."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest
from conftest import until
from gearman_peers import (
    ASSIGN_UNIQ,
    CAN_DO,
    CREATED,
    ERROR,
    GRAB_JOB_UNIQ,
    SUBMIT_BG,
    SUBMIT_JOB,
    Raw,
    Relay,
    Server,
    frame,
    requests,
)

from libgm.gearman import address
from libgm.gearman.connection import Refused, ServerLost
from libgm.gearman.worker import Worker

BIG = 6 << 20


def worker_of(*servers, function: bytes = b"f", **options) -> Worker:
    return Worker(address.parse_servers(",".join(map(str, servers))), function, b"test", **options)


def pumped(worker: Worker, predicate):
    """Let a worker send and receive until predicate() is true."""
    return until(lambda: (worker.attend(0.01, ()) and False) or predicate())


def dripping(connection) -> None:
    """A server that answers a grab byte by byte."""
    for kind, _ in requests(connection):
        if kind == GRAB_JOB_UNIQ:
            for byte in frame(ASSIGN_UNIQ, b"H:1", b"f", b"u", b"x" * 200):
                connection.sendall(bytes([byte]))
                time.sleep(0.1)


@pytest.mark.slow
def test_a_dripping_server_keeps_the_jobs_of_another_waiting_no_longer_than_a_second(memory_gearmand, monkeypatch, capfd):
    monkeypatch.setenv("GM_TIMEOUT", "60")
    raw = Raw(memory_gearmand.server)
    for number in range(10):
        raw.submit(b"f", b"%d" % number, b"x")
    with contextlib.closing(Server(dripping)) as drip:
        worker = worker_of(drip, memory_gearmand.server)
        for _ in range(10):
            assigned = worker.next(20)
            assert str(assigned.server) == memory_gearmand.server
            assigned.complete(b"")
        assert worker.drain(10) and drip.connections == 1 and capfd.readouterr().err == ""   # it may be slow, so far
        worker.close()
    raw.close()


def test_a_dripping_server_is_given_up_as_silent_and_that_is_said_once(memory_gearmand, monkeypatch, capfd):
    monkeypatch.setenv("GM_TIMEOUT", "0.5")
    with contextlib.closing(Server(dripping)) as drip:
        worker = worker_of(drip, memory_gearmand.server)
        pumped(worker, lambda: worker.down)
        worker.close()
        assert capfd.readouterr().err.endswith(f"{drip}: no answer in 0.5 s\n")


@pytest.mark.slow
def test_a_large_payload_on_a_slow_line_is_no_silence(gm, memory_gearmand, monkeypatch, capfd):
    monkeypatch.setenv("GM_TIMEOUT", "1")
    relay, raw = Relay(gm, memory_gearmand.port), Raw(memory_gearmand.server)
    relay.set("slow")
    raw.submit(b"f", b"u", bytes(BIG))
    worker = worker_of(relay.server)
    assert len(worker.next(60).data) == BIG and capfd.readouterr().err == ""
    worker.close()
    raw.close()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["drain", "attend", "release", "close"])
def test_an_answer_is_sent_to_its_end_on_a_slow_line(gm, memory_gearmand, monkeypatch, capfd, way):
    """It takes several times as long as a server may be silent."""
    monkeypatch.setenv("GM_TIMEOUT", "1")
    relay, client, got = Relay(gm, memory_gearmand.port), Raw(memory_gearmand.server), []
    relay.set("slow")
    client.submit(b"f", b"u", b"x", SUBMIT_JOB)
    thread = threading.Thread(target=lambda: got.append(client.hear()[1]))
    thread.start()
    worker = worker_of(relay.server)
    assigned = worker.next(20)
    assigned.complete(bytes(BIG))
    if way == "attend":
        pumped(worker, lambda: got)
    elif way == "drain":
        assert assigned.drain()
    elif way == "release":
        assigned.release()
    worker.close()
    thread.join(30)
    assert got == [assigned.handle + b"\0" + bytes(BIG)] and capfd.readouterr().err == ""
    until(lambda: memory_gearmand.status()[b"f"][0] == 0)
    client.close()


@pytest.mark.slow(20)
@pytest.mark.parametrize("pipe", [False, True])
def test_a_large_result_of_gm_work_on_a_slow_line_is_sent_once(gm, memory_gearmand, tmp_path, pipe):
    """By a worker that retires with it, and takes longer than a server may be silent."""
    size = 12 << 20
    relay = Relay(gm, memory_gearmand.port)
    relay.set("slow")
    client = gm.start("gm-submit", "--wait", "f", "/dev/null")
    script = f"echo run >> {tmp_path}/runs; printf %0{size}d 0"
    if pipe:
        script = f"while read line; do echo run >> {tmp_path}/runs; printf '{{\"ok\":true,\"result\":\"%0{size}d\"}}\\n' 0; done"
    worker = gm.start("gm-work", "-s", relay.server, "--max-jobs=1", *["--pipe"] * pipe, "f", "--", "sh", "-c", script,
                      env={"GM_TIMEOUT": "1"})
    assert client.wait(60) == 0
    record, = map(json.loads, client.out_path.read_bytes().splitlines())
    assert record["result"] == "0" * size and (tmp_path / "runs").read_text() == "run\n"
    worker.terminate()
    assert worker.wait(20) == 0


@pytest.mark.slow
def test_gm_work_does_the_jobs_of_a_server_beside_one_that_drips(gm, memory_gearmand):
    gm("gm-submit", "-q", "f", input=b"".join(b"%d\n" % number for number in range(10)))
    with contextlib.closing(Server(dripping)) as drip:
        worker = gm.start("gm-work", "-s", f"{drip},{memory_gearmand.server}", "f", "--", "true", env={"GM_TIMEOUT": "60"})
        until(lambda: worker.out_path.read_bytes().count(b'"done"') == 10)
        worker.kill()


def test_an_answer_waits_for_no_longer_than_until(gm, memory_gearmand):
    relay, raw = Relay(gm, memory_gearmand.port), Raw(memory_gearmand.server)
    raw.submit(b"f", b"u", b"x")
    worker = worker_of(relay.server)
    assigned = worker.next(20)
    relay.set("hold")
    assigned.complete(bytes(64 << 20))
    deadlines = [None, time.monotonic() + 0.3]   # as when SIGTERM comes meanwhile
    assert not assigned.drain(until=lambda: deadlines.pop(0) if len(deadlines) > 1 else deadlines[0])
    assert not assigned.drain(0.1) and not assigned.lost
    worker.close(until=lambda: time.monotonic())
    raw.close()


def test_a_server_that_takes_nothing_of_an_answer_is_given_up(gm, memory_gearmand, monkeypatch, capfd):
    monkeypatch.setenv("GM_TIMEOUT", "0.5")
    relay, raw = Relay(gm, memory_gearmand.port), Raw(memory_gearmand.server)
    raw.submit(b"f", b"u", b"x")
    worker = worker_of(relay.server)
    assigned = worker.next(20)
    relay.set("hold")
    assigned.complete(bytes(64 << 20))
    assert not assigned.drain() and assigned.lost
    worker.close()
    assert f"{relay.server}: took nothing of an answer in 0.5 s" in capfd.readouterr().err
    raw.close()


@pytest.mark.parametrize("size, payload", [(63, b"x"), (63, b""), (64, b"x"), (64, b"\0x"), (64, b""), (62, b"\0x"), (8, b"\0")])
@pytest.mark.parametrize("limit", [None, 100])
def test_a_unique_of_64_bytes_puts_nothing_before_the_payload(memory_gearmand, size, payload, limit, tmp_path):
    """gearmand cuts it to 63 bytes and sends a NUL behind; limit: as of a payload that goes to a file."""
    files = []

    def spool(handle, function, unique, length):
        files.append((open(tmp_path / "payload", "w+b"), length))  # noqa: SIM115  the worker closes it
        return files[0][0]
    raw, unique = Raw(memory_gearmand.server), b"0123456789abcdef" * 4
    data = payload + b"." * 200 if payload else payload
    raw.submit(b"f", unique[:size], data)
    worker = worker_of(memory_gearmand.server, **({"spool": spool, "limit": limit} if limit and data else {}))
    assigned = worker.next(20)
    assert assigned.unique == unique[:min(size, 63)]
    if files:
        files[0][0].seek(0)
        assert files[0][0].read() == data and files[0][1] == len(data)
    else:
        assert assigned.data == data
    worker.close()
    raw.close()


@pytest.mark.parametrize("name", [b"resize\n", b"\n.\n", b"a\tb\r", b"\xff ", b"x" * 3000])
def test_any_function_is_worked(memory_gearmand, name):
    raw = Raw(memory_gearmand.server)
    raw.submit(name, b"u", b"x")
    worker = worker_of(memory_gearmand.server, function=name)
    assigned = worker.next(20)
    assert (assigned.function, assigned.data) == (name, b"x")
    assigned.complete(b"")
    worker.drain()
    worker.close()
    raw.close()


def refusing(connection) -> None:
    """Perl's Gearman::Server: it does not know GRAB_JOB_UNIQ."""
    for kind, _ in requests(connection):
        if kind == GRAB_JOB_UNIQ:
            connection.sendall(frame(ERROR, b"server_error", b'Can\'t locate object method "CMD_"\n'))


@pytest.mark.slow
def test_an_error_is_said_at_once(capfd):
    with contextlib.closing(Server(refusing)) as server:
        worker = worker_of(server)
        worker.connect()
        with pytest.raises(ServerLost, match="asked for a job: the server refused it: server_error: Can't locate"):
            worker.next(0)
        assert capfd.readouterr().err == ""
        pumped(worker, lambda: server.connections > 3)
        worker.close()
        worker = worker_of(server)
        pumped(worker, lambda: server.connections > 6)
        worker.close()
        assert capfd.readouterr().err.count("server_error") == 1   # once only, until it answers


def test_an_error_about_a_late_answer_loses_nothing(memory_gearmand, capfd):
    raw = Raw(memory_gearmand.server)
    for unique in (b"1", b"2"):
        raw.submit(b"f", unique, b"x")
    worker = worker_of(memory_gearmand.server)
    assigned = worker.next(20)
    assigned.complete(b"")
    assigned.complete(b"")   # of a job that is gone
    other = worker.next(20)
    other.complete(b"")
    assert worker.drain() and not other.lost
    until(lambda: (worker.attend(0.01, ()) and False) or memory_gearmand.status()[b"f"][0] == 0)
    assert capfd.readouterr().err.count("JOB_NOT_FOUND") == 1
    worker.close()
    raw.close()


def test_a_resubmission_that_is_refused(memory_gearmand):
    raw = Raw(memory_gearmand.server)
    raw.submit(b"f", b"u", b"x")
    worker = worker_of(memory_gearmand.server)
    assigned = worker.next(20)
    with pytest.raises(Refused, match="ARGUMENT_TOO_LARGE"):
        assigned.resubmit(b"f", b"u" * 100, b"x")
    assert assigned.resubmit(b"f", b"v", b"x").startswith(b"H:") and not assigned.lost
    worker.close()
    raw.close()


def test_a_resubmission_to_a_server_that_drips_ends(monkeypatch):
    monkeypatch.setenv("GM_TIMEOUT", "0.5")

    def serve(connection):
        for kind, _ in requests(connection):
            if kind == GRAB_JOB_UNIQ:
                connection.sendall(frame(ASSIGN_UNIQ, b"H:1", b"f", b"u", b"x"))
            for byte in frame(CREATED, b"H:2" + b"0" * 200) if kind == SUBMIT_BG else b"":
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
    with contextlib.closing(Server(serve)) as server:
        worker = worker_of(server)
        assigned = worker.next(20)
        with pytest.raises(ServerLost, match=r"no answer in 0\.5 s"):
            assigned.resubmit(b"f", b"v", b"x")
        assert assigned.lost
        worker.close()


def test_a_release_gives_back_the_jobs_of_its_connection_alone(memory_gearmand, new_gearmand):
    other = new_gearmand(None)
    for server in (memory_gearmand, other):
        raw = Raw(server.server)
        for unique in (b"1", b"2"):
            raw.submit(b"f", unique, b"x")
        raw.close()
    worker = worker_of(memory_gearmand.server, other.server)
    worker.window = 4
    pumped(worker, lambda: len(worker.jobs) == 4)
    first, = [assigned for assigned in worker.jobs if str(assigned.server) == other.server][:1]
    worker.window = 0
    first.release()
    assert [str(assigned.server) for assigned in worker.jobs] == [memory_gearmand.server] * 2
    until(lambda: other.status()[b"f"][:2] == (2, 0))
    assert memory_gearmand.status()[b"f"][:2] == (2, 2)
    worker.close()
    until(lambda: memory_gearmand.status()[b"f"][1] == 0)


def test_a_job_whose_server_is_lost_is_not_taken_any_more(memory_gearmand, new_gearmand):
    """Its server hands it out again; what came from another is still there."""
    other = new_gearmand(None)
    for server in (memory_gearmand, other):
        raw = Raw(server.server)
        raw.submit(b"f", b"u", b"x")
        raw.close()
    worker = worker_of(memory_gearmand.server, other.server)
    worker.window = 2
    pumped(worker, lambda: len(worker.jobs) == 2)
    other.kill()
    pumped(worker, lambda: worker.down)
    assert [str(assigned.server) for assigned in worker.jobs] == [memory_gearmand.server]
    worker.close()


@pytest.mark.slow
def test_the_loss_and_the_return_of_a_server_are_said_once(memory_gearmand, capfd):
    worker = worker_of(memory_gearmand.server)
    assert worker.next(0) is None
    memory_gearmand.kill()
    pumped(worker, lambda: worker.down)
    until(lambda: (worker.attend(0.2, ()) and False) or worker.recovery[worker.connection_list[0]].backoff.pause > 0.5)
    memory_gearmand.start()
    pumped(worker, lambda: not worker.down)
    worker.close()
    lost, back = capfd.readouterr().err.splitlines()
    assert "connection lost" in lost and back.endswith(f"{memory_gearmand.server}: connected again")


def test_a_worker_that_is_busy_for_long_sleeps_meanwhile(memory_gearmand):
    """Nothing is due by the clock while no more jobs are wanted."""
    raw = Raw(memory_gearmand.server)
    raw.submit(b"f", b"u", b"x")
    worker = worker_of(memory_gearmand.server)
    assigned = worker.next(20)
    worker.window = 0
    assigned.connection.since -= 100   # it has run for that long
    assert worker._next_event() > 1
    worker.close()
    raw.close()


def test_an_unasked_job_is_nonsense(monkeypatch, capfd):
    def serve(connection):
        for kind, _ in requests(connection):
            if kind == CAN_DO:
                connection.sendall(frame(ASSIGN_UNIQ, b"H:1", b"f", b"u", b"x"))
    with contextlib.closing(Server(serve)) as server:
        worker = worker_of(server)
        worker.window = 0
        pumped(worker, lambda: worker.down)
        worker.close()
        assert "answered what was not asked" in capfd.readouterr().err


@pytest.mark.slow
def test_a_server_that_takes_no_connection_keeps_the_others_waiting_for_a_second_at_most(memory_gearmand, monkeypatch, capfd):
    monkeypatch.setenv("GM_TIMEOUT", "0.3")
    with contextlib.ExitStack() as held:
        full = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):   # more than may wait to be accepted
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        worker = worker_of(memory_gearmand.server, f"127.0.0.1:{full.getsockname()[1]}")
        pumped(worker, lambda: worker.down)
        (connection, error), = worker.down.items()
        assert str(error).endswith("cannot connect: no answer in 0.3 s")
        monkeypatch.setenv("GM_TIMEOUT", "60")
        worker.recovery[connection].retry_at = 0.0
        pumped(worker, lambda: str(worker.down[connection]).endswith("cannot connect: no answer in 1 s"))
        worker.close()
