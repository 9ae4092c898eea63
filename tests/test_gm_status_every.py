"""gm-status --every: rounds of records, the quarantine file that comes later, rates, and what fits on a screen."""

from __future__ import annotations

import json
import os
import pty
import signal
import time

from conftest import until
from helpers import answering

CLEAR = b"\x1b[H\x1b[2J"


def records(process) -> list[dict]:
    return [json.loads(line) for line in process.out_path.read_bytes().splitlines()]


def screens(gm, *args, columns: int, lines: int) -> list[list[str]]:
    """The lines of two screens of gm-status --every on a terminal."""
    master, slave = pty.openpty()
    process = gm.popen(["gm-status", "--every=0.1", *args], {"COLUMNS": str(columns), "LINES": str(lines), "NO_COLOR": "1"},
                       stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while shown.count(CLEAR) < 3:
        shown += os.read(master, 65536)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    os.close(master)
    return [screen.decode().splitlines() for screen in shown.split(CLEAR)[1:3]]


def test_a_file_that_is_not_there_yet_is_reported_once_and_shown_when_it_comes(gm, fake, die, tmp_path):
    """Whether $GM_QUARANTINE or --quarantine names it; nothing is reported of the default file."""
    server, path = answering(fake, b"f\t0\t0\t1\n"), str(tmp_path / "later.db")
    named = gm.start("gm-status", "--every=0.1", "-s", server, env={"GM_QUARANTINE": path})
    given = gm.start("gm-status", "--every=0.1", "-s", server, f"--quarantine={path}")
    until(lambda: len(records(named)) > 3 and len(records(given)) > 3)
    gm("gm-bury", "-q", input=b'{"function":"f","data":"x"}\n', env={"GM_QUARANTINE": path})
    for process, what in ((named, b"no such file yet"), (given, b"no such file: ")):
        until(lambda process=process: records(process)[-1]["dead"] == 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.err_path.read_bytes().count(b"\n") == 1 and what in process.err_path.read_bytes()
        assert records(process)[0]["dead"] == 0
    folder = tmp_path / "gearmang"
    env = {"XDG_STATE_HOME": str(tmp_path), "GM_QUARANTINE": str(folder / "quarantine.db")}
    assert gm("gm-status", "-s", server, env=env).err == b""   # the variable names the default


def test_rates_are_of_the_last_fifteen_seconds(gm, fake):
    """gm-work writes its counts every five seconds: a rate since the last look would be 0 most of the time."""
    server = answering(fake, b"f\t80\t0\t1\n")
    gm("gm-bury", "-q", input=b'{"function":"f","data":"x"}\n')
    process = gm.start("gm-status", "--every=0.1", "-s", server)
    until(lambda: len(records(process)) > 2)
    began = time.monotonic()
    with gm.database() as database:
        database.execute("INSERT INTO tally VALUES ('f', '2026-11-26', 40, 20)")
        database.commit()
    until(lambda: records(process)[-1]["done_rate"])
    count = len(records(process))
    until(lambda: len(records(process)) > count + 3)
    found = records(process)
    assert [sum(record[name] for record in found) for name in ("done", "failed")] == [40, 20]
    last = found[-1]
    assert last["done"] == 0 and abs(last["done_rate"] - 2 * last["failed_rate"]) < 0.01 < last["failed_rate"]
    assert 0 < last["empty_in"] <= 2 * (time.monotonic() - began + 1) and "empty_in" in found[0] and not found[0]["empty_in"]


def test_eighty_columns_show_functions_on_lines(gm, fake):
    server = answering(fake, b"resize-photos\t900\t1\t1\nmail\t0\t0\t1\n")
    for lines in screens(gm, "-s", server, columns=80, lines=24):
        assert {"waiting", "dead", "done/s"} <= set(lines[0].split()) and max(map(len, lines)) <= 80
        assert [line.split()[0] for line in lines[1:]] == ["trouble", "resize-photos", "mail"]
    wide, _ = screens(gm, "-s", server, columns=160, lines=24)
    assert {"today", "held", "running", "delayed"} <= set(wide[0].split())


def test_forty_columns_show_one_below_the_other(gm, fake):
    server = answering(fake, b"resize-photos\t900\t1\t1\n")
    lines, _ = screens(gm, "-s", server, columns=40, lines=24)
    assert "waiting   899" in lines and "held      0" in lines and max(map(len, lines)) <= 40


def test_trouble_stays_on_the_screen_and_what_has_no_room_is_counted(gm, fake):
    rows = b"".join(b"idle-%02d\t0\t0\t1\n" % n for n in range(40)) + b"busy\t1\t0\t1\nstuck\t1\t0\t0\n"
    for lines in screens(gm, "-s", answering(fake, rows), columns=80, lines=12):
        assert len(lines) <= 11 and lines[2].startswith("stuck")
        assert any(line.startswith("busy") for line in lines)
        assert lines[-1].endswith(" more functions: make the terminal larger, or use --busy or -f")


def test_a_server_that_is_down_stays_on_the_screen(gm):
    for lines in screens(gm, "-s", "127.0.0.1:1", columns=80, lines=24):
        assert any("127.0.0.1:1: cannot connect" in line for line in lines)
