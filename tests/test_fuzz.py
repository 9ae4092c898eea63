"""Any bytes, split anywhere, at every door: an error of ours or a correct parse, never another exception, a hang, or
memory that grows with what is declared. (The frame reader by itself: test_wire.)"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
import types

import pytest
from conftest import free_port, until
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from libgm import job, units, wire
from libgm.errors import BadRecord, Error, Usage
from libgm.gearman import address
from libgm.gearman.admin import Admin
from libgm.gearman.client import Submitter
from libgm.gearman.connection import ServerLost
from libgm.gearman.worker import Worker
from libgm.quarantine import fingerprint, jobs, processes
from libgm.quarantine.file import Store, raw
from libgm.shell import lines
from libgm.shell.lines import Output
from libgm.tools import batch, collect, dead, salvage, syslog
from libgm.worker import outcome, protocol
from libgm.worker.streams import LineReader

pytestmark = pytest.mark.slow

settings.register_profile("fuzz", deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
settings.load_profile("fuzz")

hostile = st.one_of(st.text(), st.sampled_from(["\ud800", "a\0b", "\x1b[31m", "\u202e", "é", "a\nb\r", "-x", "x" * 600, ""]))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), hostile)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile, inner, max_size=3),
                      max_leaves=6)
FIELDS = ["id", "revision", "state", "key", "function", "function_b64", "unique", "unique_b64", "priority", "reason", "error",
          "stderr", "exit", "signal", "attempts", "requeues", "first_failed", "last_failed", "due", "server", "handle",
          "host", "fingerprint", "payload_file", "data", "data_b64", "envelope", "task", "unique_key", "time", "exception"]
TIMES = st.sampled_from(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "2026-11-24",
                         "2026-11-24T13:42:00Z", "1969-12-31T23:59:59Z", 10 ** 400, -1, 1e300])
good = {"function": st.just("f"), "data": st.just("x"), "unique": st.just("u"), "key": st.sampled_from(["0" * 32, "x" * 32]),
        "reason": st.just("error"), "priority": st.just("low"), "first_failed": TIMES, "last_failed": TIMES,
        "error": hostile, "stderr": hostile, "exit": st.integers(), "attempts": st.integers(0, 9), "task": st.just("t"),
        "exception": hostile, "host": hostile}
records = st.builds(lambda likely, rest: {**rest, **{name: value for name, value in likely.items() if value is not None}},
                    st.fixed_dictionaries({name: st.one_of(st.none(), made) for name, made in good.items()}),
                    st.dictionaries(st.sampled_from(FIELDS), values, max_size=4))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """An open quarantine file."""
    opened = Store(str(tmp_path_factory.mktemp("fuzz") / "quarantine.db"), create=True)
    processes.join(opened, "fuzz")
    yield opened
    opened.close()


def kept_and_shown(file, row: dict) -> None:
    """A row goes into the file, and comes out of it as a record that can be shown in every way."""
    try:
        with file.transaction(durable=False):
            file.execute("DELETE FROM job")
            jobs.bring_in(file, row)
    except Error:
        raise AssertionError(f"the file does not take it: {row}") from None
    values = file.execute(f"SELECT {', '.join(jobs.COLUMNS)} FROM job").fetchone()
    found = jobs.record(values)
    assert json.loads(lines.dump(found))["id"] == found["id"]
    shown = dead.render(found, raw(values[-1]), [])
    assert not {byte for byte in shown if byte < 32 and byte != 10}, shown
    from libgm.shell.table import cell
    from libgm.tools.dead import columns
    for _, make in columns(time.time(), False):
        text = str(cell(make(found)))
        text.encode()
        assert not any(map(lines.unsafe, map(ord, text))), text


# ---- records, envelopes


@given(st.binary(), values)
@example(b"%gm1 {}\nx", None)
def test_envelopes(data, fields):
    """Whatever stands in front of a payload under a plain unique: it is an envelope, or payload."""
    for payload in (data, b"%gm1 " + data, b"%gm1 {" + data + b"\n", b"%gm1 " + json.dumps(fields).encode() + b"\n" + data):
        own, header, rest = wire.unpack(b"f", b"plain", payload)
        assert payload.endswith(rest)
        if rest != payload:
            again = wire.unpack(b"f", *wire.pack(b"f", own, header, rest))
            assert again[0] == own and again[2] == rest


@given(records)
def test_job_records(fields):
    try:
        made = job.Job.from_record(fields)
    except BadRecord:
        return
    assert 1 <= len(made.unique) <= job.MAX_UNIQUE and b"\0" not in made.function + made.unique
    unique, data = made.on_wire()
    if made.wire_unique is None:
        own, _, payload = wire.unpack(made.function, unique, data)
        assert (own, payload) == (made.unique, made.data)


@given(records)
def test_quarantine_records(file, fields):
    try:
        row = jobs.from_record(fields)
    except BadRecord:
        return
    kept_and_shown(file, row)


@given(st.one_of(st.binary(), st.one_of(records, values).map(lambda value: json.dumps(value).encode())))
def test_whatever_arrives_at_a_collector(file, data):
    server = address.Server("h", 1, False)
    assigned = types.SimpleNamespace(data=data, function=b"gearmang", unique=b"u", handle=b"H:x:1", server=server)
    kept_and_shown(file, collect.read(assigned))


@given(values)
@example({"id": 10 ** 30})
@example({"id": True})
@example({"id": 1, "revision": "1"})
def test_records_that_name_a_job(record):
    if isinstance(record, dict):
        try:
            assert batch.Action("unused", False, Output(quiet=True)).item("stdin:1", record).ident > 0
        except BadRecord as error:
            assert "\n" not in str(error)


@given(st.lists(st.one_of(st.binary(), values.map(lambda value: json.dumps(value).encode())), max_size=6))
@example([b"[" * 100000])
def test_lines_of_records(given_lines):
    bad: list = []
    found = list(lines.records(enumerate(given_lines, 1), bad.append))
    assert all(isinstance(record, dict) for _, record in found) and all(isinstance(error, BadRecord) for error in bad)
    assert len(found) + len(bad) == sum(bool(line.strip()) for line in given_lines)


@given(hostile | TIMES.map(str))
def test_times_and_durations(text):
    for read in (units.duration, units.when):
        try:
            assert isinstance(read(text), float)
        except Usage:
            pass


# ---- the pipe


@given(st.one_of(values, st.fixed_dictionaries({"ok": st.booleans()}, optional={
    "result": values, "result_b64": values, "error": values, "verdict": values, "delay": values, "stderr": values})))
def test_answers_of_a_command(answer):
    try:
        found = protocol.parse(json.dumps(answer).encode())
        told = protocol.outcome_of(found, b"said") if "ok" in found else None
    except protocol.Broken:
        return
    if told:
        assert isinstance(told.stdout, bytes) and told.verdict in ("done", "fail", *protocol.VERDICTS)


@given(st.binary())
def test_bytes_of_a_command(line):
    try:
        assert isinstance(protocol.parse(line), dict)
    except protocol.Broken as error:
        assert len(str(error)) < 400


@given(st.binary(), st.integers(1, 7))
def test_lines_of_a_command_split_anywhere(data, size):
    reading, writing = os.pipe()
    stdout = LineReader(reading)
    found = []
    for at in range(0, len(data), size):
        os.write(writing, data[at:at + size])
        found += stdout.lines()
    os.close(writing)
    found += stdout.lines()
    assert found == [line for line in data.split(b"\n")[:-1] if line.strip()] and not stdout.open
    stdout.close()


@given(st.binary() | values.map(lambda value: json.dumps(value).encode()))
def test_lines_on_descriptor_3(data):
    assert isinstance(outcome.extras(data), dict)


@given(hostile)
def test_errors_have_a_cause(error):
    assert len(fingerprint.fingerprint(b"f", "error", error)) == 12


# ---- servers


@pytest.fixture(scope="module")
def listener():
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("127.0.0.1", free_port()))
        found.listen(64)
        yield found


def frame(kind: int, data: bytes) -> bytes:
    return b"\0RES" + kind.to_bytes(4, "big") + len(data).to_bytes(4, "big") + data


frames = st.lists(st.one_of(
    st.builds(frame, st.sampled_from([6, 8, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 25, 28, 31, 40]),
              st.one_of(st.binary(max_size=40), st.just(b"H:x:1\0f\0u\0data"), st.just(b"QUEUE_ERROR\0x"))),
    st.binary(max_size=30), st.just(b"\0RES\0\0\0\x1f\xff\xff\xff\xff" + b"H:x:1\0f\0u\0" + b"d" * 50)), max_size=6)


@settings(max_examples=40)
@given(frames)
def test_whatever_a_server_tells_a_worker(listener, said):
    server = address.Server(*listener.getsockname(), False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GM_TIMEOUT", "0.1")
        worker = Worker([server], b"f", b"fuzz")
        worker.connect()
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"".join(said))
            peer.shutdown(socket.SHUT_WR)
            for _ in range(4):
                try:
                    assigned = worker.next(0.01)
                except ServerLost:
                    break
                if assigned is not None:
                    try:
                        assigned.complete(b"")
                        assigned.flush()
                    except ServerLost:
                        pass
        worker.close()
    drain(listener)


@settings(max_examples=40)
@given(frames)
def test_whatever_a_server_tells_a_client(listener, said):
    server = address.Server(*listener.getsockname(), False)
    accepted: list = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GM_TIMEOUT", "0.1")
        submitter = Submitter([server], on_accept=lambda item, handle, _: accepted.append(handle))
        submitter.submit(b"f", b"u", b"data", "normal", 1)
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"".join(said))
            peer.shutdown(socket.SHUT_WR)
            try:
                submitter.finish()
            except ServerLost:
                pass
        submitter.close()
    assert len(accepted) <= 1
    drain(listener)


def drain(listener) -> None:
    """Take what reconnected meanwhile off the queue."""
    listener.setblocking(False)
    try:
        while True:
            listener.accept()[0].close()
    except BlockingIOError:
        listener.setblocking(True)


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"")) |
                st.builds(lambda name, numbers: name + b"\t" + b"\t".join(b"%d" % n for n in numbers), st.binary(max_size=9),
                          st.lists(st.integers(), max_size=5)), max_size=5))
def test_admin_replies(said):
    admin = Admin(address.Server("127.0.0.1", 1, False))
    admin.ask = lambda *_: said
    for question in (admin.queues, admin.workers):
        try:
            question()
        except ServerLost as error:
            assert len(str(error)) < 500


# ---- files


@pytest.fixture(scope="module")
def queue_file(tmp_path_factory):
    """The bytes of a queue file with jobs, some of them large."""
    path = tmp_path_factory.mktemp("queue") / "queue.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE gearman_queue (unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, "
                   "when_to_run INTEGER, PRIMARY KEY (unique_key, function_name))")
        db.executemany("INSERT INTO gearman_queue VALUES (?,?,?,?,?)",
                       [(f"u{n}", f"f{n % 3}", n % 3, os.urandom(9000 if n % 9 == 0 else 40), 0) for n in range(60)])
    db.close()
    return path.read_bytes()


damage = st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=40)), max_size=6)


@settings(max_examples=80)
@given(damage, st.integers(0, 1 << 20), st.booleans())
def test_damaged_queue_files(queue_file, tmp_path_factory, hits, cut, truncated):
    path = tmp_path_factory.getbasetemp() / "damaged.db"
    data = bytearray(queue_file)
    for at, change in hits:
        at %= len(data)
        data[at:at + len(change)] = change
    path.write_bytes(data[:cut % len(data)] if truncated else data)
    try:
        with salvage.QueueFile(str(path), "gearman_queue") as queue:
            for row in queue.rows():
                lines.dump(salvage.record(row))
            list(salvage.facts(queue))
    except Error as error:
        assert str(path) in str(error)


@settings(max_examples=60)
@given(damage, st.integers(0, 1 << 20), st.booleans())
def test_damaged_quarantine_files(tmp_path_factory, hits, cut, truncated):
    path = tmp_path_factory.getbasetemp() / "quarantine.db"
    for leftover in list(path.parent.glob("quarantine.db*")):
        leftover.unlink(missing_ok=True)
    made = Store(str(path), create=True)
    with made.transaction():
        for number in range(20):
            jobs.set_aside(made, jobs.row(key=f"{number:032x}", function=b"f", unique_=b"u", data=b"x" * 500))
    made.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    made.close()
    data = bytearray(path.read_bytes())
    for at, change in hits:
        at %= len(data)
        data[at:at + len(change)] = change
    path.write_bytes(data[:cut % len(data)] if truncated else data)
    try:
        opened = Store(str(path))
        processes.join(opened, "fuzz")
        list(opened.rows(f"SELECT {', '.join(jobs.COLUMNS)} FROM job"))
        jobs.dead_of_each(opened)
        opened.close()
    except Error as error:
        assert str(path) in str(error)


# ---- events


events = st.builds(lambda fields, more: {**more, **fields}, st.fixed_dictionaries({}, optional={
    name: scalars for name in ("event", "time", "function", "function_b64", "unique", "unique_b64", "handle", "attempts",
                               "duration", "exit", "signal", "reason", "error", "worker", "host", "server")}),
    st.dictionaries(st.sampled_from(["extra", "x"]), values))


@given(events)
def test_events_to_syslog(event):
    said = syslog.message(event)
    assert said is None or not {byte for byte in said if byte < 32 or byte == 127}, said


def test_filters_take_anything(gm):
    """A few hundred hostile lines through the filters themselves: each comes out as it went in, and nothing breaks."""
    made = st.one_of(events, values).map(lambda value: json.dumps(value).encode())
    found = [line for line in examples(made, 200) + examples(st.binary(), 50) if b"\n" not in line]
    data = b"".join(line + b"\n" for line in found)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(gm.home / "log"))
        result = gm("gm-syslog", "--all", gm.home / "log", input=data, status=None)
    assert result.out == data and result.status in (0, 1) and b"GM_DEBUG" not in result.err
    result = gm("gm-tally", input=data, status=None)
    assert result.status in (0, 1) and b"GM_DEBUG" not in result.err
    assert all(isinstance(json.loads(line), dict) for line in result.out.splitlines())


def examples(strategy, count: int) -> list:
    found: list = []

    @settings(max_examples=count, database=None, derandomize=True)
    @given(strategy)
    def take(value):
        found.append(value)
    take()
    return found


def test_submitting_anything(gm, gearmand):
    found = [line for line in examples(st.one_of(records, values).map(lambda value: json.dumps(value).encode()), 200) +
             examples(st.binary(), 50) if b"\n" not in line]
    result = gm("gm-submit", input=b"".join(line + b"\n" for line in found), status=1)
    assert b"GM_DEBUG" not in result.err and all(line.startswith(b"gm-submit: stdin:") for line in result.err.splitlines())
    until(lambda: sum(total for total, _, _ in gearmand.status().values()) == len({
        (record.get("function"), record["unique"]) for record in result.records}))
    gearmand.kill()
    gearmand.start()   # what was accepted does not keep it from starting again
