"""gm-blueox: frames that BlueOx's collector reads, and no harm without one."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess

import msgpack
import pytest
import zmq
from conftest import free_port, until
from helpers import EVENT, lines

pytestmark = pytest.mark.slow


class Collector:
    """A PULL socket that unpacks what it gets as BlueOx's oxd does."""

    def __init__(self, port: int):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PULL)
        self.socket.bind(f"tcp://127.0.0.1:{port}")
        self.events: list[dict] = []

    def take(self, count: int) -> list[dict]:
        """count more events: what the meta frame says, and the map."""
        found = []
        while len(found) < count:
            assert self.socket.poll(20000), f"{len(found)} of {count}"
            meta, data = self.socket.recv_multipart()
            assert meta[:1] == b"\x03"
            _, end, host, kind = struct.unpack("!Bd64p64p", meta)
            event = msgpack.unpackb(data, raw=True)   # as in Python 2: every string is bytes
            assert (event[b"end"], event[b"host"], event[b"type"]) == (end, host, kind)
            assert not re.search(rb"[\xc4-\xc6\xd9]", data[:1]) and set(event) == {
                b"id", b"type", b"host", b"pid", b"start", b"end", b"body"}
            found.append(msgpack.unpackb(data, raw=False))
        return found

    def close(self):
        self.socket.close(0)
        self.context.term()


@pytest.fixture
def collector(gm):
    port = free_port()
    gm.env["BLUEOX_HOST"] = f"127.0.0.1:{port}"
    found = Collector(port)
    found.port = port
    yield found
    found.close()


def test_frames_of_an_event(gm, collector):
    given = lines({"event": "done", "error": None, "reason": None, "exit": 0, "extra": {"width": 640, "image": {"kB": 12.5}}}, {})
    assert gm("gm-blueox", input=given).out == given
    done, dead = collector.take(2)
    assert done["type"] == "gearmang.resize" and done["host"] == "worker-7" and done["pid"] == 1234 and done["id"] == "photo-17"
    assert done["end"] == 1795591816 and done["start"] == 1795591815.75
    assert done["body"] == {"width": 640, "image": {"kB": 12.5}, "outcome": "done", "duration": 0.25, "attempts": 3,
                            "exit": 0, "server": "127.0.0.1:4730", "handle": "H:host:12"}
    assert dead["body"]["outcome"] == "dead" and dead["body"]["error"] == "disk full" and dead["body"]["reason"] == "error"


def test_strings_are_packed_as_msgpack_of_python_2_knew_them(gm, collector):
    gm("gm-blueox", input=lines({"error": "x" * 100, "extra": {"é" * 40: "y" * 200}}))
    _, data = collector.socket.recv_multipart()
    assert b"\xda\x00\x64" + b"x" * 100 in data   # raw16; str8 (0xd9) came later


@pytest.mark.parametrize("function, kind", [
    ("../../etc/x y\n", "gearmang..._.._etc_x_y_"), ("é" * 60, "gearmang." + "é" * 27), ("a" * 99, "gearmang." + "a" * 54)])
def test_names_that_would_harm_the_collector(gm, collector, function, kind):
    gm("gm-blueox", input=lines({"function": function, "host": "h" * 200}))
    event, = collector.take(1)
    assert event["type"] == kind and event["host"] == "h" * 63


def test_what_msgpack_cannot_pack_costs_only_the_extra(gm, collector):
    gm("gm-blueox", input=lines({"extra": {"n": 1 << 80}}) + json.dumps({**EVENT, "unique": "\ud800"}).encode() + b"\n" +
       json.dumps({**EVENT, "error": "\ud800", "duration": None, "time": "?", "worker": None}).encode() + b"\n")
    events = collector.take(3)
    assert "n" not in events[0]["body"] and events[0]["body"]["outcome"] == "dead" and events[2]["end"] > 1.7e9


def test_ten_thousand_events_arrive_in_order(gm, collector):
    given = lines(*({"unique": f"u{n}"} for n in range(10000)))
    process = gm.start("gm-blueox", stdin=subprocess.PIPE)
    process.stdin.write(given)
    process.stdin.close()
    assert [event["id"] for event in collector.take(10000)] == [f"u{n}" for n in range(10000)]
    assert process.wait(20) == 0 and process.err_path.read_bytes() == b""


def test_a_collector_that_is_away_is_told_and_its_share_counted(gm):
    port = free_port()
    given = lines(*({"unique": f"u{n}"} for n in range(5000)))
    result = gm("gm-blueox", f"127.0.0.1:{port}", input=given, status=1)
    assert result.out == given
    assert result.err.decode().splitlines()[-1] == \
        f"gm-blueox: tcp://127.0.0.1:{port}: 5000 of 5000 events not delivered: no collector answers"


def test_events_of_an_outage_arrive_afterwards(gm):
    port = free_port()
    process = gm.start("gm-blueox", f"127.0.0.1:{port}", stdin=subprocess.PIPE)
    process.stdin.write(lines({"unique": "early"}))
    process.stdin.flush()
    until(lambda: b"cannot deliver" in process.err_path.read_bytes())
    assert process.out_path.read_bytes().count(b"\n") == 1
    collector = Collector(port)
    try:
        assert [event["id"] for event in collector.take(1)] == ["early"]
    finally:
        collector.close()
    process.stdin.close()
    assert process.wait(20) == 0


def test_the_first_interrupt_is_not_the_end(gm, collector):
    process = gm.start("gm-blueox", stdin=subprocess.PIPE)
    process.stdin.write(lines({}))
    process.stdin.flush()
    collector.take(1)
    process.send_signal(signal.SIGINT)
    process.stdin.write(lines({}))
    process.stdin.close()
    collector.take(1)
    assert process.wait(20) == 0


def test_misuse(gm):
    for args in (["a", "b"], ["h:0"], ["a,b"], ["--all"]):
        gm("gm-blueox", *args, status=2)
    assert b"BLUEOX_HOST" in gm("gm-blueox", env={"BLUEOX_HOST": "a b"}, status=2).err


def test_the_real_pipe_after_gm_work(gm, gearmand, collector):
    gm("gm-submit", "-q", "resize", input=b"640\n")
    gm("bash", "-c", """set -o pipefail
        gm-work --until-empty resize -- sh -c 'read w; echo "{\\"width\\":$w}" >&3' | gm-blueox""")
    event, = collector.take(1)
    assert event["body"]["width"] == 640 and event["body"]["outcome"] == "done" and event["host"] == os.uname().nodename
    assert 0 < event["body"]["duration"] < 60
