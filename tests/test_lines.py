"""libgm.shell.lines: lines in and out, and text for a terminal."""

from __future__ import annotations

import json
import os
import sys
import threading
import unicodedata

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from libgm.errors import Error
from libgm.shell import lines


def read(data: bytes, null: bool = False) -> list:
    """Input's lines of data through a pipe."""
    reading, writing = os.pipe()

    def write():
        with open(writing, "wb") as file:
            file.write(data)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        return list(lines.Input(reading, null=null))
    finally:
        writer.join()
        os.close(reading)


def written(act) -> bytes:
    """What act(output) leaves in a pipe."""
    reading, writing = os.pipe()
    output = lines.Output(writing)
    act(output)
    output.close()
    os.close(writing)
    with open(reading, "rb") as file:
        return file.read()


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line)))
def test_lines_come_out_as_they_went_in(wanted):
    assert read(b"".join(line + b"\n" for line in wanted)) == list(enumerate(wanted, 1))


@given(st.lists(st.binary().filter(lambda line: b"\0" not in line)))
def test_null_ends_lines(wanted):
    assert read(b"".join(line + b"\0" for line in wanted), null=True) == list(enumerate(wanted, 1))


def test_last_line_needs_no_end():
    assert read(b"a\nb") == [(1, b"a"), (2, b"b")]
    assert read(b"") == []
    assert read(b"\n") == [(1, b"")]


def test_lines_longer_than_a_read():
    data = [b"x" * (3 * lines.CHUNK + 1), b"", b"y" * lines.CHUNK]
    assert [line for _, line in read(b"\n".join(data))] == data


def test_long_line_is_linear(monkeypatch):
    """64 MiB are read in one piece of work per chunk: no chunk is looked at twice."""
    reads = []
    real = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: reads.append(size) or real(fd, size))
    reading, writing = os.pipe()

    def write():
        with open(writing, "wb") as file:
            file.write(b"x" * (64 << 20) + b"\n")
    writer = threading.Thread(target=write)
    writer.start()
    [(number, line)] = lines.Input(reading)
    writer.join()
    os.close(reading)
    assert (number, len(line)) == (1, 64 << 20)
    assert set(reads) == {lines.CHUNK}


def test_waiting_is_called_before_input_blocks_and_not_while_lines_are_at_hand():
    reading, writing = os.pipe()
    seen = []

    def waiting():
        seen.append("waiting")
        if seen.count("waiting") == 1:
            os.write(writing, b"a\nb\n")
        else:
            os.close(writing)
    for _, line in lines.Input(reading, waiting=waiting):
        seen.append(line)
    os.close(reading)
    assert seen == ["waiting", b"a", b"b", "waiting"]


def test_unreadable_input_is_an_error(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(Error, match=r"^standard input: cannot read: is a directory$"):
        list(lines.Input(fd))
    os.close(fd)


@pytest.mark.parametrize("bad, why", [
    (b"{", "not JSON: "), (b"[1]", "not a JSON object"), (b"17", "not a JSON object"),
    (b"\xff", "not JSON: "),
    (b'{"a":NaN}', "not JSON: NaN is not a JSON number"), (b'{"a":-Infinity}', "not JSON: -Infinity"),
    (b'{"a":1e400}', "not JSON: 1e400 is out of range"), (b'{"a":[-1.5e999]}', "not JSON: -1.5e999 is out of range"),
    (b'[{"a":1}]', "not a JSON object (an array? jq -c '.[]' makes a line of each element)"),
    (b"[", "not JSON: "), (b'{"a":"\xed\xa0\x80"}', "not JSON: "), (b"[" * 100000, "not JSON: "),
    (b'{"a":' + b"1" * 5000 + b"}", None)])
def test_bad_line_is_reported_with_its_place_and_skipped(bad, why):
    reports = []
    source = [(1, b'{"a":1}'), (2, bad), (3, b" "), (4, b'{"b":"\xc3\xa9"}')]
    found = list(lines.records(iter(source), reports.append))
    assert [where for where, _ in found if where != "stdin:2"] == ["stdin:1", "stdin:4"]
    assert found[0][1] == {"a": 1} and found[-1][1] == {"b": "é"}
    if why:
        [report] = reports
        assert str(report).startswith(f"stdin:2: {why}")


@pytest.mark.parametrize("line, hint", [
    (b"{", "(a record over several lines? jq -c keeps it on one)"),
    (b'  [{"a":1},', "(an array? jq -c '.[]' makes a line of each element)"), (b'{"a"', "")])
def test_bad_line_of_another_layout_is_told_with_its_cure(line, hint):
    reports = []
    list(lines.records(iter([(1, line)]), reports.append))
    assert str(reports[0]).endswith(hint) and ("jq" in str(reports[0])) == bool(hint)


def test_byte_order_mark_is_passed_over():
    assert list(lines.records(iter([(1, b'\xef\xbb\xbf{"a":1}')]), pytest.fail)) == [("stdin:1", {"a": 1})]


anything = st.recursive(st.none() | st.booleans() | st.integers(-2 ** 53, 2 ** 53) | st.text() |
                        st.floats(allow_nan=False, allow_infinity=False),
                        lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
                        max_leaves=8)


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.text(), anything, max_size=4), max_size=4))
def test_records_are_a_round_trip(wanted):
    data = written(lambda output: [output.emit(record) for record in wanted])
    assert data.count(b"\n") == len(wanted)
    assert [record for _, record in lines.records(iter(read(data)), pytest.fail)] == wanted


def test_dump_is_one_compact_line_of_utf8():
    assert lines.dump({"a": "é\n\0", "b": [1, None]}) == '{"a":"é\\n\\u0000","b":[1,null]}\n'.encode()


def test_dump_writes_no_lone_surrogate():
    line = lines.dump({"a": "\ud800é"})
    assert json.loads(line.decode("ascii")) == {"a": "\ud800é"}


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_nothing_safe_acts_on_a_terminal(text):
    shown = lines.safe(text)
    assert not any(unicodedata.category(char) in UNSAFE for char in shown)
    assert lines.safe(shown) == shown


UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")


@pytest.mark.slow
def test_every_character_that_acts_or_hides_is_escaped_and_no_other():
    hiding = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2065\u3164\uffa0" + "".join(
        map(chr, [*range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000)]))   # of no such category
    acts = {char for char in map(chr, range(0x110000)) if unicodedata.category(char) in UNSAFE or char in hiding}
    escaped = {char for char in map(chr, range(0x110000)) if lines.safe(char) != char}
    assert acts <= escaped
    assert not {char for char in escaped - acts if unicodedata.category(char) != "Cn"}   # a later Unicode may have them


def test_safe_shows_what_it_hides():
    assert lines.safe("\x1b[31m\r\n\t\x9b\u202e\ud800é") == "\\x1b[31m\\r\\n\\t\\x9b\\u202e\\ud800é"
    assert lines.safe("a\xad\u061c\u200b\u2060\ufe0f\U000e0041\U000e0100") == \
        "a\\xad\\u061c\\u200b\\u2060\\ufe0f\\U000e0041\\U000e0100"
    assert lines.safe("plain \\ text, größer, 日本語, 😀") == "plain \\ text, größer, 日本語, 😀"


def test_output_keeps_order_over_its_buffer(tmp_path):
    parts = [b"a" * 10, b"b" * lines.Output.LIMIT, b"c"]
    path = tmp_path / "out"
    with open(path, "wb") as file:
        output = lines.Output(file.fileno())
        for part in parts:
            output.write(part)
        output.close()
    assert path.read_bytes() == b"".join(parts)


def test_quiet_output_writes_nothing():
    def act(output):
        output.quiet = True
        output.emit({"a": 1})
        output.write(b"x")
    assert written(act) == b""


def test_output_to_a_full_device_is_an_error():
    with open("/dev/full", "wb", buffering=0) as full:
        output = lines.Output(full.fileno())
        output.emit({"a": 1})
        with pytest.raises(Error, match=r"^standard output: cannot write: no space left on device$"):
            output.close()


def test_output_without_a_reader():
    reading, writing = os.pipe()
    os.close(reading)
    output = lines.Output(writing)
    output.write(b"x")
    with pytest.raises(lines.ReaderGone):
        output.flush()
    os.close(writing)


def test_output_waits_for_a_full_pipe_that_does_not_block():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = os.urandom(1 << 20)
    got = []

    def take():
        with open(reading, "rb") as file:
            got.append(file.read())
    reader = threading.Thread(target=take)
    output = lines.Output(writing)
    reader.start()
    output.write(data)
    output.close()
    os.close(writing)
    reader.join()
    assert got == [data]


def test_terminal_as_standard_input_is_a_usage_error(gm):
    """A pty is what a terminal is; anything else is read."""
    code = (f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from libgm.shell.lines import stdin_or_usage; stdin_or_usage('give IDs')")
    leader, terminal = os.openpty()
    try:
        result = gm(sys.executable, "-c", code, input=terminal, status=1)
        assert b"Usage: give IDs" in result.err
    finally:
        os.close(leader)
        os.close(terminal)
    gm(sys.executable, "-c", code)
