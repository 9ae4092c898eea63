"""The wire: server lists, the frame reader against any bytes, server loss, and bytes through a real gearmand."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, find_gearmand, free_port, until
from helpers import hear_out
from hypothesis import given, settings
from hypothesis import strategies as st

from libgm.errors import Unavailable, Usage
from libgm.gearman import address
from libgm.gearman.admin import Admin
from libgm.gearman.client import Submitter
from libgm.gearman.connection import LIMIT, PARAMS, SEND, Connection, ServerLost
from libgm.gearman.worker import Worker

ANY = bytes(range(256)) + "é ✓".encode() + b"\0\377\r\n"
CREATED, NO_JOB, COMPLETE, ERROR, ASSIGN, STATUS_RES = 8, 10, 13, 19, 31, 20


def frame(kind: int, *fields: bytes, magic: bytes = b"\0RES") -> bytes:
    body = b"\0".join(fields)
    return struct.pack(">4sII", magic, kind, len(body)) + body


def pair(size: int = 0) -> tuple[Connection, socket.socket]:
    """A Connection, and the server's end of it."""
    ours, theirs = socket.socketpair()
    if size:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
    ours.setblocking(False)
    connection = Connection(address.Server("127.0.0.1", 1, False))
    connection.gearman_socket, connection.connected = ours, True
    return connection, theirs


def feed(connection: Connection, theirs: socket.socket, pieces) -> list:
    """The commands that come out of the connection when the server says pieces, one at a time."""
    found = []
    for piece in pieces:
        theirs.sendall(piece)
        connection.read_data_from_socket()
        connection.read_commands_from_buffer()
        found += iter(connection.read_command, None)
    return found


def pump(connection: Connection, theirs: socket.socket) -> bytes:
    """Send everything that is queued; what the server got."""
    got = bytearray()
    theirs.setblocking(False)
    while connection.writable():
        connection.flush()
        try:
            while True:
                got += theirs.recv(1 << 20)
        except BlockingIOError:
            pass
    return bytes(got)


def answering(text: bytes):
    """What a server does to a connection that asks admin questions: each time text, and the status of the job asked for."""
    def serve(connection) -> None:
        asked = b""
        while chunk := connection.recv(1 << 16):
            asked += chunk
            if b"\0REQ" in asked and len(asked) >= asked.index(b"\0REQ") + 12 + 32:
                connection.sendall(text + frame(STATUS_RES, asked[-32:], b"0", b"0", b"0", b"0"))
                asked = b""
    return serve


@pytest.mark.parametrize("text, shown", [
    ("h", "h:4730"), ("h:1", "h:1"), ("[::1]:80", "[::1]:80"), ("[::1]", "[::1]:4730"), ("::1", "[::1]:4730"),
    ("tls://h:2", "tls://h:2"), ("tls://[fe80::1]", "tls://[fe80::1]:4730"), (" a , b:7,a,", "a:4730,b:7")])
def test_a_server_list(text, shown):
    assert ",".join(map(str, address.parse_servers(text))) == shown


@pytest.mark.parametrize("text", ["", ",", "h:0", "h:65536", "h:x", "h:٣", ":1", "[::1", "[::1]x", "http://h", "tls://",
                                  "a b", "a\nb", "a\0b", "h:" + "9" * 5000])
def test_a_bad_server_list_is_a_usage_error(text):
    with pytest.raises(Usage):
        address.parse_servers(text)


@given(st.text(max_size=30))
def test_any_server_list_is_parsed_or_a_usage_error(text):
    try:
        found = address.parse_servers(text)
    except Usage:
        return
    assert address.parse_servers(",".join(map(str, found))) == found


@given(st.lists(st.tuples(st.binary(max_size=40).filter(lambda name: b"\0" not in name), st.binary(max_size=300))),
       st.integers(1, 400))
def test_frames_come_out_whole_however_they_are_split(jobs, size):
    data = b"".join(frame(ASSIGN, handle, b"f", b"u", payload) for handle, payload in jobs)
    connection, theirs = pair()
    with theirs:
        found = feed(connection, theirs, [data[at:at + size] for at in range(0, len(data), size)])
    connection.close()
    assert [(kind, said["job_handle"], said["data"]) for kind, said in found] == [(ASSIGN, *one) for one in jobs]


def test_frames_byte_by_byte():
    data = frame(COMPLETE, b"H:1", ANY) + frame(NO_JOB) + frame(ERROR, b"CODE", b"why")
    connection, theirs = pair()
    with theirs:
        found = feed(connection, theirs, [bytes([byte]) for byte in data])
    assert found == [(COMPLETE, {"job_handle": b"H:1", "data": ANY}), (NO_JOB, {}),
                     (ERROR, {"error_code": b"CODE", "error_text": b"why"})]


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=200), st.builds(
    lambda kind, length, body: struct.pack(">4sII", b"\0RES", kind, length) + body,
    st.integers(0, 50), st.one_of(st.integers(0, 64), st.integers(0, (1 << 32) - 1)), st.binary(max_size=64))),
    st.integers(1, 64))
def test_hostile_bytes_give_commands_or_server_lost(data, size):
    connection, theirs = pair()
    with theirs:
        try:
            for kind, _ in feed(connection, theirs, [data[at:at + size] for at in range(0, len(data), size)]):
                assert kind in PARAMS
        except ServerLost as error:
            assert str(error).startswith("127.0.0.1:1: ") and "\n" not in str(error)
    connection.close()


@pytest.mark.parametrize("kind", [ASSIGN, COMPLETE, ERROR])
def test_a_declared_length_of_4_gib_is_not_believed(kind):
    connection, theirs = pair()
    with theirs, pytest.raises(ServerLost, match="4294967295 bytes"):
        feed(connection, theirs, [struct.pack(">4sII", b"\0RES", kind, (1 << 32) - 1)])


def test_what_came_before_the_end_is_delivered_first():
    connection, theirs = pair()
    theirs.sendall(frame(NO_JOB))
    theirs.close()
    assert connection.read_data_from_socket() and connection.read_commands_from_buffer() == 1
    with pytest.raises(ServerLost, match="the server closed it"):
        connection.read_data_from_socket()


def test_what_came_before_a_reset_is_delivered_first():
    class Reset:
        said = [frame(NO_JOB)]

        def recv(self, size):
            if self.said:
                return self.said.pop().ljust(size, b"\0")
            raise ConnectionResetError(104, "Connection reset by peer")
    connection, theirs = pair()
    with theirs:
        connection.gearman_socket = Reset()
        assert connection.read_data_from_socket()
        with pytest.raises(ServerLost, match="connection reset by peer"):
            connection.read_data_from_socket()


def test_a_payload_over_the_limit_streams_into_a_file_and_frames_go_on(tmp_path):
    length, asked = LIMIT + 1000, []

    def spool(*heads):
        asked.append(heads)
        return open(tmp_path / "big", "w+b")
    connection, theirs = pair()
    connection.spool = spool
    names = b"H:9\0f\0u\0"
    head = struct.pack(">4sII", b"\0RES", ASSIGN, len(names) + length)
    block = bytes(range(256)) * 4096
    blocks = [block] * (length // len(block)) + [block[:length % len(block)]]
    talk = threading.Thread(target=lambda: [theirs.sendall(part) for part in blocks] + [theirs.sendall(frame(NO_JOB))])
    found = feed(connection, theirs, [head, names[:5], names[5:]])   # the names are not all there at first
    talk.start()
    while len(found) < 2:
        connection.read_data_from_socket()
        connection.read_commands_from_buffer()
        found += iter(connection.read_command, None)
        assert len(connection._incoming) < 1 << 20
    talk.join()
    theirs.close()
    assert asked == [(b"H:9", b"f", b"u", length)] and [kind for kind, _ in found] == [ASSIGN, NO_JOB]
    file = found[0][1]["data"]
    file.seek(0)
    assert all(file.read(len(block)) == part for part in blocks)


def test_partial_sends_lose_nothing():
    connection, theirs = pair(4096)
    big = os.urandom(3 << 20)
    sent = [(13, b"H:1", big), (13, b"H:2", b"x"), (39, ), (13, b"H:3", big), (39, )]
    for kind, *fields in sent:
        connection.put(kind, *fields)
    head = connection._next_to_send()
    assert len(head) <= SEND
    with theirs:
        assert pump(connection, theirs) == b"".join(frame(*each, magic=b"\0REQ") for each in sent)


def test_a_large_buffer_is_not_copied_when_it_is_sent_in_parts():
    connection, theirs = pair(4096)
    body = bytes(8 << 20)
    connection.put(13, b"H:1", body)
    connection.put(39)
    with theirs:
        connection.flush()     # the header, and a first part
        rest = connection._outgoing[0]
        assert isinstance(rest, memoryview) and len(rest) > SEND
        theirs.recv(1 << 20)
        connection.flush()
        assert connection._outgoing[0].obj is rest.obj


def test_admin_lines_end_in_cr_lf_or_lf(fake):
    status = b"a\tb\t3\t-1\t0\r\n" + b"f\t1\t0\t2\n.\n"
    assert [queue[:4] for queue in Admin(fake(answering(status)).server).queues()] == [(b"a\tb", 3, -1, 0), (b"f", 1, 0, 2)]


def test_an_admin_reply_over_a_megabyte(fake):
    rows = b"".join(b"function-%d\t1\t0\t0\n" % row for row in range(60000))
    assert len(rows) > 1 << 20 and len(Admin(fake(answering(rows + b".\n")).server).queues()) == 60000


def test_refused_connection_says_how_to_cure_it():
    server = address.Server("127.0.0.1", free_port(), False)
    with pytest.raises(ServerLost, match=r"^127\.0\.0\.1:\d+: cannot connect: connection refused: is gearmand running\?"):
        Admin(server).version()
    assert issubclass(ServerLost, Unavailable)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 64 + ".example", "a..b"])
def test_a_host_that_is_no_host(host):
    with pytest.raises(ServerLost, match="cannot connect"):
        Admin(address.Server(host, 4730, False)).version()


def test_a_silent_server_is_given_up(fake, monkeypatch):
    monkeypatch.setenv("GM_TIMEOUT", "0.3")
    silent = fake(hear_out)
    with pytest.raises(ServerLost, match=r"no answer in 0\.3 s"):
        Admin(silent.server).queues()
    submitter = Submitter([silent.server])
    with pytest.raises(ServerLost, match=r"no answer in 0\.3 s"):
        submitter.submit(b"f", b"u", b"x", "normal", None)
        submitter.finish()


@pytest.mark.slow
def test_a_slow_upload_is_no_silence(fake, monkeypatch):
    monkeypatch.setenv("GM_TIMEOUT", "0.4")
    size = 12 << 20

    def slow(connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        got = 0
        while got < size:
            got += len(connection.recv(1 << 20))
            time.sleep(0.02)
        connection.sendall(frame(CREATED, b"H:1"))
        connection.recv(1)
    accepted, server = [], fake(slow)
    submitter = Submitter([server.server], on_accept=lambda *said: accepted.append(said))
    submitter.submit(b"f", b"u", bytes(size), "normal", 7)
    submitter.finish()
    assert accepted == [(7, b"H:1", server.server)] and server.seen == 1
    submitter.close()


@pytest.mark.parametrize("size, patient", [(1000, False), (32 << 20, True)])
def test_a_server_may_take_longer_to_answer_what_takes_longer_to_store(size, patient):
    connection, theirs = pair()
    connection.expect()
    connection.put(18, b"f", b"u", bytes(size))
    with theirs:
        assert len(pump(connection, theirs)) > size and connection.patience(5.0) > 0
        until(lambda: connection.patience(5.0) and connection._taken == connection._sent)
        connection.since -= 6
        connection._moved -= 6
        assert (connection.patience(5.0) > 0) is patient


@pytest.mark.parametrize("said", [frame(STATUS_RES, b"H", b"1", b"1", b"0", b"0"), frame(6),
                                  frame(ASSIGN, b"H", b"f", b"u", b"d"), b"HTTP/1.1 400 Bad Request\r\n\r\n",
                                  frame(11, b"H", b"f", b"d"), frame(99), frame(8, b"H", magic=b"\0REQ")])
def test_a_server_that_talks_nonsense_is_lost(fake, monkeypatch, said):
    monkeypatch.setenv("GM_TIMEOUT", "0.3")

    def serve(connection):
        connection.recv(1 << 20)
        connection.sendall(said)
        connection.recv(1)
    submitter = Submitter([fake(serve).server])
    with pytest.raises(ServerLost):
        submitter.submit(b"f", b"u", b"x", "normal", None)
        submitter.finish()


def test_an_acknowledgement_that_nobody_waits_for_ends_the_connection(fake):
    def serve(connection):
        connection.recv(1 << 20)
        connection.sendall(frame(CREATED, b"H") * 2)
        connection.recv(1)
    accepted, server = [], fake(serve)
    submitter = Submitter([server.server], on_accept=lambda *said: accepted.append(said))
    for unique in b"u", b"v":
        submitter.submit(b"f", unique, b"x", "normal", unique)
        submitter.finish()
    assert [said[0] for said in accepted] == [b"u", b"v"] and server.seen == 2


def test_an_exception_in_a_callback_loses_no_answers(fake):
    """As when the reader of standard output goes away: what was read with it must not wait for more."""
    def serve(connection):
        got = b""
        while got.count(b"\0REQ") < 3:
            got += connection.recv(1 << 16)
        connection.sendall(b"".join(frame(CREATED, b"H:%d" % number) for number in range(3)))
        connection.recv(1)
    accepted = []

    def accept(item, *_):
        accepted.append(item)
        if item == 0:
            raise KeyError
    submitter = Submitter([fake(serve).server], on_accept=accept)
    for item in range(3):
        submitter.submit(b"f", b"%d" % item, b"x", "normal", item)
    with pytest.raises(KeyError):
        submitter.finish()
    submitter.finish()   # raises ServerLost when it waits for what it has
    assert accepted == [0, 1, 2]


@pytest.mark.slow
def test_a_server_that_restarts_after_a_long_rest_is_waited_for(gearmand):
    accepted = []
    submitter = Submitter(address.parse_servers(gearmand.server), on_accept=lambda item, *_: accepted.append(item))
    submitter.submit(b"f", b"1", b"x", "normal", 1)
    submitter.finish()
    gearmand.kill()
    threading.Timer(1.0, gearmand.start).start()
    submitter.submit(b"f", b"2", b"x", "normal", 2)
    submitter.finish()
    assert accepted == [1, 2] and gearmand.waiting(b"f") == 2
    submitter.close()


def test_an_error_packet_belongs_to_its_submission(gearmand):
    told = []
    submitter = Submitter(address.parse_servers(gearmand.server), on_accept=lambda item, *_: told.append(item),
                          on_refuse=lambda item, error: told.append((item, error.code)))
    for item, unique in enumerate([b"a", b"x" * 65, b"b"]):
        submitter.submit(b"f", unique, b"x", "normal", item)
    submitter.finish()
    submitter.close()
    assert told == [0, (1, b"ARGUMENT_TOO_LARGE"), 2]


@pytest.mark.parametrize("size", [len(ANY), 1 << 20, 16 << 20])
def test_any_bytes_to_a_worker_and_back(memory_gearmand, size):
    data = (ANY * (size // len(ANY) + 1))[:size]
    servers, results = address.parse_servers(memory_gearmand.server), []
    submitter = Submitter(servers, wait=True, on_result=lambda *said: results.append(said[:4]))
    submitter.submit(b"f", b"\377", data, "high", "item")
    worker = Worker(servers, b"f", b"test")

    def work():
        assigned = worker.next(10)
        assert assigned.data == data and assigned.unique == b"\377"
        assigned.warning(b"why\377")
        assigned.partial(b"part")
        assigned.complete(assigned.data)
        worker.drain(10)
    thread = threading.Thread(target=work)
    thread.start()
    submitter.finish()
    thread.join()
    assert results == [("item", True, b"part" + data, b"why\377")]
    worker.close()
    submitter.close()


def test_results_of_merged_uniques_go_to_both(memory_gearmand):
    servers, results = address.parse_servers(memory_gearmand.server), []
    submitter = Submitter(servers, wait=True, on_result=lambda *said: results.append((said[0], said[2])))
    for item in (1, 2):
        submitter.submit(b"f", b"same", b"x", "normal", item)
    submitter.pump(0)
    until(lambda: submitter.pump(0.05) or memory_gearmand.waiting(b"f") == 1)
    worker = Worker(servers, b"f", b"test")
    worker.next(10).complete(b"done")
    worker.drain(10)
    submitter.finish()
    assert sorted(results) == [(1, b"done"), (2, b"done")]
    worker.close()
    submitter.close()


def test_ipv6(gm):
    port = free_port()
    gm.start(find_gearmand(), "--listen=::1", f"--port={port}", "--log-file=stderr")
    server = address.Server("::1", port, False)

    def answers():
        try:
            return Admin(server).version()
        except ServerLost:
            return None
    assert until(answers).startswith("OK")


def test_a_signal_does_not_end_a_wait(memory_gearmand):
    servers = address.parse_servers(memory_gearmand.server)
    worker, heard = Worker(servers, b"f", b"test"), []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        began = time.monotonic()
        assert worker.next(0.5) is None
        assert time.monotonic() - began >= 0.5 and len(heard) > 3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        worker.close()


def test_descriptors_over_1023(memory_gearmand):
    code = ("import os, resource, sys\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
            "held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1200)]\n"
            "from libgm.gearman import address, admin\n"
            "print(admin.Admin(address.parse_servers(sys.argv[1])[0]).version())\n")
    done = subprocess.run([sys.executable, "-c", code, memory_gearmand.server], capture_output=True, timeout=30,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.startswith(b"OK") and not done.stderr


@pytest.mark.parametrize("text, seconds", [("0.2", 0.2), ("0", 0.05), ("nan", 0.05), ("inf", 86400.0)])
def test_gm_timeout(monkeypatch, text, seconds):
    monkeypatch.setenv("GM_TIMEOUT", text)
    assert address.timeout() == seconds


def test_gm_timeout_that_is_no_number(monkeypatch):
    monkeypatch.setenv("GM_TIMEOUT", "soon")
    with pytest.raises(Usage, match="GM_TIMEOUT"):
        address.timeout()
