"""gm-syslog: events into a real rsyslogd, by each of its ways in, and when there is none."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time

import pytest
from conftest import free_port, unprivileged, until
from helpers import lines

pytestmark = pytest.mark.slow


class Rsyslog:
    """A real rsyslogd with a socket, a UDP and a TCP port of its own; .messages are the fields of what it got."""

    def __init__(self, gm, folder):
        self.gm, self.folder = gm, folder
        self.socket, self.file, self.port = folder / "log.sock", folder / "messages", free_port()
        self.config = folder / "rsyslog.conf"
        fields = ("syslogseverity-text", "timestamp:::date-rfc3339", "hostname", "app-name", "procid", "msgid",
                  "structured-data", "msg")
        line = "\\t".join(f"%{field}%" for field in fields)
        self.config.write_text(f"""
global(workDirectory="{folder}")
module(load="imuxsock" SysSock.Use="off")
module(load="imudp")
module(load="imtcp")
input(type="imuxsock" Socket="{self.socket}" UseSpecialParser="off" IgnoreTimestamp="off" RateLimit.Interval="0")
input(type="imudp" address="127.0.0.1" port="{self.port}")
input(type="imtcp" address="127.0.0.1" port="{self.port}")
template(name="fields" type="string" string="{line}\\n")
action(type="omfile" file="{self.file}" template="fields")
""")

    def start(self):
        self.process = self.gm.start(*unprivileged("rsyslogd", "-n", "-f", self.config, "-i", self.folder / "rsyslogd.pid"))
        until(lambda: self.socket.exists() and self.listens(), what="rsyslogd listens")
        return self

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.socket.unlink(missing_ok=True)

    def place(self, way) -> list:
        return [str(self.socket)] if way == "local" else [f"127.0.0.1:{self.port}", *(["--tcp"] if way == "tcp" else [])]

    @property
    def messages(self) -> list[list[str]]:
        text = self.file.read_text() if self.file.exists() else ""
        return [found for found in (line.split("\t") for line in text.splitlines()) if "gearmang" in found[3]]


@pytest.fixture
def rsyslog(gm, tmp_path):
    return Rsyslog(gm, tmp_path).start()


@pytest.mark.parametrize("way", ["local", "udp", "tcp"])
def test_a_failure_in_rsyslog_with_all_its_fields(gm, rsyslog, way):
    given = lines({}, {"event": "done", "error": None}, {"event": "retry", "unique": 'a"b]c\\d\n\x1b', "error": "é\nx"})
    assert gm("gm-syslog", *rsyslog.place(way), input=given).out == given
    dead, retry = until(lambda: len(rsyslog.messages) == 2 and rsyslog.messages)
    assert dead[:6] == ["err", "2026-11-25T07:30:16Z", "worker-7", "gearmang", "1234", "dead"]
    assert dead[6] == '[gearmang@32473 function="resize" unique="photo-17" attempts="3" reason="error" exit="3" ' \
        'duration="0.25" handle="H:host:12" server="127.0.0.1:4730"]'
    assert dead[7].strip() == "resize: H:host:12: attempt 3: disk full: quarantined"
    assert retry[0] == "warning" and retry[5] == "retry" and retry[7].strip().endswith(r"é\nx: tried again")
    assert r'unique="a\"b\]c\\d\\n\\x1b"' in retry[6]


def test_all_events(gm, rsyslog):
    given = lines(*({"event": kind} for kind in ("done", "retry", "dead", "drop", "release")), {"event": None})
    gm("gm-syslog", "--all", *rsyslog.place("tcp"), input=given)
    until(lambda: [message[5] for message in rsyslog.messages] == ["done", "retry", "dead", "drop", "release"])


@pytest.mark.parametrize("way", ["local", "tcp"])
def test_ten_thousand_events_arrive_in_order(gm, rsyslog, way):
    given = lines(*({"unique": f"u{n}"} for n in range(10000)))
    assert gm("gm-syslog", *rsyslog.place(way), input=given).out == given
    until(lambda: len(rsyslog.messages) == 10000)
    assert [re.search(r'unique="u(\d+)"', message[6])[1] for message in rsyslog.messages] == [str(n) for n in range(10000)]


@pytest.mark.parametrize("way", ["local", "udp", "tcp"])
def test_a_daemon_that_is_away_is_told_and_its_share_counted(gm, tmp_path, way):
    away = Rsyslog(gm, tmp_path)
    given = lines(*({"unique": f"u{n}"} for n in range(100)), {"event": "done"})
    result = gm("gm-syslog", *away.place(way), input=given, status=1)
    assert result.out == given
    last = result.err.decode().splitlines()[-1]
    assert re.fullmatch(rf"gm-syslog: {away.place(way)[0]}: 100 of 100 events not delivered: "
                        r"(connection refused|no such file or directory)", last), result.err


@pytest.mark.parametrize("way", ["local", "udp", "tcp"])
def test_events_of_an_outage_arrive_afterwards(gm, rsyslog, way):
    process = gm.start("gm-syslog", *rsyslog.place(way), stdin=subprocess.PIPE)

    def write(*uniques):
        process.stdin.write(lines(*({"unique": unique} for unique in uniques)))
        process.stdin.flush()

    def arrived():
        return {re.search(r'unique="(\w+)"', message[6])[1] for message in rsyslog.messages}
    write("before")
    until(lambda: arrived() == {"before"})
    rsyslog.stop()
    write("during1", "during2")
    until(lambda: process.out_path.read_bytes().count(b"\n") == 3, what="the pipe goes on")
    until(lambda: b"cannot deliver" in process.err_path.read_bytes())
    rsyslog.start()
    write("after")
    until(lambda: arrived() == {"before", "during1", "during2", "after"}, 30)
    process.stdin.close()
    assert process.wait(20) == 0 and process.err_path.read_bytes().count(b"\n") == 1


def test_a_receiver_that_never_reads_holds_nothing_up(gm):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        given = lines(*({"error": "x" * 900, "unique": f"u{n}"} for n in range(20000)))
        result = gm("gm-syslog", "--tcp", f"127.0.0.1:{port}", input=given, status=1)
    assert result.out == given
    assert re.search(rb"\d+ of 20000 events not delivered: ", result.err)


def test_a_slow_receiver_gets_all(gm):
    """It takes longer in all than the end waits for a receiver that takes nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        listener.settimeout(20)
        process = gm.start("gm-syslog", "--tcp", f"127.0.0.1:{listener.getsockname()[1]}", stdin=subprocess.PIPE)
        process.stdin.write(lines({"unique": "first"}))
        process.stdin.flush()
        connection, _ = listener.accept()
        process.stdin.write(lines(*({"error": "x" * 7000, "unique": f"u{n}"} for n in range(1000))))
        process.stdin.close()
        got = 0
        with connection:
            while True:
                chunk = connection.recv(1 << 17)
                if not chunk:
                    break
                got += len(chunk)
                time.sleep(0.05)
    assert process.wait(20) == 0 and got > 7_000_000


def test_bad_lines_and_other_records_are_passed_on(gm, rsyslog):
    given = b'not json\n[1]\n{"some":"record"}\n\n' + lines({}) + b'{"event":"dead","function":7}'
    result = gm("gm-syslog", *rsyslog.place("local"), input=given, status=1)
    assert result.out == given + b"\n"
    assert [line.split(b": ")[:2] for line in result.err.splitlines()] == [[b"gm-syslog", b"stdin:1"], [b"gm-syslog", b"stdin:2"]]
    until(lambda: len(rsyslog.messages) == 2)


def test_the_first_interrupt_is_not_the_end(gm, rsyslog):
    process = gm.start("gm-syslog", *rsyslog.place("local"), stdin=subprocess.PIPE)
    process.stdin.write(lines({}))
    process.stdin.flush()
    until(lambda: rsyslog.messages)
    process.send_signal(signal.SIGINT)
    process.stdin.write(lines({}))
    process.stdin.flush()
    until(lambda: len(rsyslog.messages) == 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_a_reader_that_goes_away_is_told(gm, rsyslog):
    given = lines(*({"unique": f"u{n}"} for n in range(5000)))
    (gm.home / "events").write_bytes(given)
    result = gm("bash", "-c", f"gm-syslog {rsyslog.socket} < events | head -1; exit ${{PIPESTATUS[0]}}", status=1)
    assert b"its reader has gone: stopping after" in result.err
    until(lambda: rsyslog.messages)


@pytest.mark.parametrize("args", [("a", "b"), ("--tcp",), ("--tcp", "/dev/log"), ("h:0",), ("h1,h2",), ("tls://h",)])
def test_misuse(gm, args):
    assert gm("gm-syslog", *args, status=2).out == b""


def test_the_real_pipe_after_gm_work(gm, gearmand, rsyslog):
    gm("gm-submit", "-q", "resize", input=b"good\nbad\n")
    result = gm("bash", "-c", "set -o pipefail; gm-work --until-empty --tries=1 resize -- grep -q good | "
                f"gm-syslog {rsyslog.socket}")
    assert sorted(record["event"] for record in result.records) == ["dead", "done"]
    message, = until(lambda: rsyslog.messages)
    assert 'function="resize"' in message[6] and 'reason="error"' in message[6]
    assert message[7].endswith("exit status 1: quarantined")
