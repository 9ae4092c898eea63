"""libgm.shell.table: a listing is JSON lines, or a table that fits the terminal."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import termios

import pytest
from conftest import ROOT

from libgm.shell.table import wrapped

TOOL = '''#!/usr/bin/env python3
"""List.

Usage: gm-x [options] [--] [WORD...]

Options:
  --json     print JSON lines
  --table    print a table
  --rows=N   rows [default: 3]
  --columns=N  columns more [default: 0]
"""
from libgm.shell import options
from libgm.shell.run import run
from libgm.shell.table import Listing


def main(args):
    names = ["id", *(f"column{n}" for n in range(options.number(args, "--columns"))), "error"]
    columns = [(name, lambda record, name=name: record.get(name, "middle")) for name in names]
    found = Listing(options.wants_table(args), columns, "dead jobs in FILE")
    words = args["WORD"] or ["some text"]
    for number in range(options.number(args, "--rows")):
        found.add({"id": number, "error": words[number % len(words)]})
    found.close()


run(main, __doc__)
'''


@pytest.fixture
def listing(gm, tmp_path):
    """listing(*args, columns=None) runs a lister: in a terminal of so many columns, or into a pipe."""
    path = tmp_path / "gm-x"
    path.write_text(TOOL)
    path.chmod(0o755)
    env = {"PYTHONPATH": str(ROOT), "COLUMNS": None}

    def run(*args, columns=None):
        if columns is None:
            result = gm(path, *args, env=env)
            return result.out.decode(), result.err.decode()
        leader, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = gm.start(path, *args, env=env, stdout=terminal)
        os.close(terminal)
        shown = b""
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:   # Linux says EIO where nobody has the terminal open any more
                break
            if not chunk:
                break
            shown += chunk
        os.close(leader)
        assert process.wait(20) == 0
        return shown.decode().replace("\r\n", "\n"), process.err_path.read_text()
    return run


def test_json_lines_into_a_pipe_and_where_asked_for(listing):
    for out, err in listing(), listing("--json", columns=40):
        records = [json.loads(line) for line in out.splitlines()]
        assert records == [{"id": n, "error": "some text"} for n in range(3)]
        assert err == ""


def test_table_on_a_terminal_and_where_asked_for(listing):
    for out, err in listing(columns=40), listing("--table"):
        rows = [line.split(None, 1) for line in out.splitlines()]
        assert rows == [["id", "error"], *([str(n), "some text"] for n in range(3))]
        assert err == ""


def test_table_fits_the_terminal(listing):
    out, _ = listing("x" * 500, "y", columns=40)
    assert max(map(len, out.splitlines())) == 40
    assert out.splitlines()[1].endswith("x…")
    assert "x" * 500 in listing("x" * 500, columns=600)[0]


LONG = "cannot write the thumbnail of the photograph: no space left on device"


def test_an_error_that_would_be_cut_gets_a_line_of_its_own(listing):
    out, _ = listing(LONG, "short", "--columns=6", columns=80)
    assert out.splitlines() == [
        "id  column0  column1  column2  column3  column4  column5", "    error",
        " 0  middle   middle   middle   middle   middle   middle", "    " + LONG,
        " 1  middle   middle   middle   middle   middle   middle", "    short",
        " 2  middle   middle   middle   middle   middle   middle", "    " + LONG]
    out, _ = listing("x" * 500, "--columns=6", columns=80)
    assert out.splitlines()[3] == "    " + "x" * 75 + "…"


def test_words_go_on_over_the_lines_that_they_may_have():
    text = " ".join(["cannot decode"] * 12)
    first, second, third = wrapped(text, 76, 3)
    assert max(map(len, (first, second, third))) <= 76 and " ".join((first, second, third)) == text
    assert len(wrapped(text * 5, 76, 3)) == 3 and wrapped(text * 5, 76, 3)[2].endswith("…")
    assert wrapped("x" * 500, 76, 3)[2].endswith("…") and wrapped("short", 76, 3) == ["short"]


def test_an_error_that_fits_stays_in_its_row(listing):
    out, _ = listing("no space left", "--columns=6", columns=80)
    assert out.splitlines()[1] == " 0  middle   middle   middle   middle   middle   middle   no space left"


def test_a_narrow_terminal_gets_blocks(listing):
    out, _ = listing(LONG, "short", "--columns=6", "--rows=2", columns=40)
    middle = [f"column{n}  middle" for n in range(6)]
    assert out.splitlines() == [
        "id       0", *middle, "error    cannot write the thumbnail of t", "         he photograph: no space left on",
        "          device", "", "id       1", *middle, "error    short", ""]
    out, _ = listing("x" * 500, "--columns=6", "--rows=1", columns=40)
    assert out.splitlines()[-3:] == ["         " + "x" * 31, "         " + "x" * 30 + "…", ""]


def test_forms_are_kept_in_a_long_table(listing):
    for columns in 40, 80:
        out, _ = listing(LONG, "--columns=6", "--rows=2500", columns=columns)
        assert out.count("middle") == 2500 * 6 and out.count("column3") == (1 if columns == 80 else 2500)
        assert max(map(len, out.splitlines())) <= columns


def test_huge_cell_is_cut(listing):
    out, _ = listing("x" * 100000, columns=80)
    assert max(map(len, out.splitlines())) == 80


def test_numbers_are_on_the_right(listing):
    out, _ = listing("--table", "--rows=11")
    assert [line[:2] for line in out.splitlines()] == ["id", *(f"{n:2}" for n in range(11))]


def test_control_characters_are_shown(listing):
    out, _ = listing("--rows=1", "a\x1b[2J\nb\u202e", columns=80)
    assert out.splitlines()[1].split() == ["0", "a\\x1b[2J\\nb\\u202e"]


def test_long_table_has_one_heading_and_straight_columns(listing):
    out, _ = listing("--table", "--rows=2500")
    rows = out.splitlines()
    assert rows[0].split() == ["id", "error"] and len(rows) == 2501
    assert [row.split(None, 1) for row in rows[1:]] == [[str(n), "some text"] for n in range(2500)]
    assert {row.index("some") for row in rows[1001:]} == {len("1234  ")}


@pytest.mark.parametrize("args, columns", [((), 80), (("--json",), 80), (("--table",), None)])
def test_empty_listing_says_where_it_looked(listing, args, columns):
    assert listing("--rows=0", *args, columns=columns) == ("", "gm-x: no dead jobs in FILE\n")


def test_empty_listing_in_a_pipe_says_nothing(listing):
    assert listing("--rows=0") == ("", "")
