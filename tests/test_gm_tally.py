"""gm-tally: checked against exact figures, in memory that does not grow, and on a terminal."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess

import numpy
import pytest
from conftest import ROOT, until
from helpers import lines, terminal

pytestmark = pytest.mark.slow

HOUR = "2026-11-25T07:{:02d}:{:02d}Z"


def at(second: int) -> str:
    return HOUR.format(second // 60, second % 60)


@pytest.mark.parametrize("draw", [
    lambda die: die.lognormvariate(-1, 1), lambda die: die.expovariate(0.01), lambda die: die.uniform(-5, 100),
    lambda die: die.paretovariate(1.2), lambda die: die.choice((640, 1024, 2048)), lambda die: -die.lognormvariate(3, 2),
    lambda die: die.choice((0, 0, 0, 7))], ids=["lognormal", "exponential", "uniform", "pareto", "sizes", "negative", "zeros"])
def test_quantiles_are_within_a_hundredth(gm, draw):
    die = random.Random(7)
    values = [draw(die) for _ in range(20000)]
    given = lines(*({"duration": value, "extra": {"size": value, "deep": {"er": value}, "flag": True, "name": "x"}}
                    for value in values))
    record, = gm("gm-tally", input=given).records
    assert record["count"] == 20000 and set(record["extra"]) == {"size", "deep.er"}
    for found in (record["duration"], *record["extra"].values()):
        assert found["count"] == 20000 and found["max"] == max(values)
        for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            exact = numpy.quantile(values, q, method="lower")
            assert abs(found[name] - exact) <= 0.01 * abs(exact), (name, found[name], exact)


def test_counts_and_rates_by_function_and_outcome(gm):
    given = lines(*({"function": f, "event": kind, "time": at(n % 50)}
                    for n in range(500) for f, kind in (("a", "done"), ("b", "dead"))),
                  {"function": "a", "event": "retry", "duration": None})
    found = {(record["function"], record["event"]): record for record in gm("gm-tally", input=given).records}
    assert list(found) == [("a", "done"), ("a", "retry"), ("b", "dead")]
    assert found["a", "done"]["count"] == 500 and found["a", "retry"]["count"] == 1 and found["a", "retry"]["duration"] is None
    assert found["a", "done"]["rate"] == float(f"{500 / 1817:.4g}")   # the retry's time is 07:30:16
    assert (found["a", "done"]["since"], found["a", "done"]["until"]) == (at(0), "2026-11-25T07:30:16Z")


def test_windows_by_the_events_own_times(gm):
    given = lines(*({"time": at(second)} for second in range(0, 150) for _ in range(3)))
    records = gm("gm-tally", "--every=1m", input=given).records
    assert [(r["since"], r["until"], r["count"], r["rate"]) for r in records] == [
        (at(0), at(59), 180, 3), (at(60), at(119), 180, 3), (at(120), at(149), 90, 3)]


def test_a_live_window_ends_also_when_nothing_comes(gm):
    process = gm.start("gm-tally", "--every=1", stdin=subprocess.PIPE)
    process.stdin.write(lines({}))
    process.stdin.flush()
    until(lambda: process.out_path.read_bytes().count(b"\n") == 1)
    process.stdin.write(lines({}))
    process.stdin.close()
    assert process.wait(20) == 0 and process.out_path.read_bytes().count(b"\n") == 2


def peak(gm, given: bytes) -> int:
    """kB that gm-tally came to hold over this input."""
    path = gm.home / "given"
    path.write_bytes(given)
    process = gm.start("gm-tally", stdin=path)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


def test_memory_does_not_grow_with_the_events(gm):
    die = random.Random(7)
    few = lines(*({"unique": f"u{n}", "duration": die.lognormvariate(0, 3), "extra": {"w": die.lognormvariate(9, 3)}}
                  for n in range(10000)))
    assert peak(gm, few * 15) < peak(gm, few) + 2000


def test_memory_does_not_grow_with_names(gm):
    names = lines(*({"function": f"f{n}", "extra": {f"x{n}": n}} for n in range(30000)))
    peaked = peak(gm, names)
    assert peaked < peak(gm, lines({})) + 60000
    result = gm("gm-tally", input=names)
    assert result.err.count(b"\n") == 1 and b"over 1000 functions or numbers at a time" in result.err
    assert sum(record["count"] for record in result.records) == 30000
    assert [record["count"] for record in result.records if record["function"] == "(others)"] == [29000]


def test_what_is_no_measurement_is_passed_over(gm):
    given = lines({"duration": "1", "extra": [1, 2]}, {"duration": True, "extra": {"a": None, "b": [3], "duration": 9}},
                  {"duration": 10 ** 400, "extra": {"c": -1e308}},
                  {"event": ["x"], "function": {"y": 1}, "time": 7}) + b'{"no":"event"}\n'
    one, two = sorted(gm("gm-tally", input=given).records, key=lambda record: record["event"])
    assert two["count"] == 3 and two["duration"] is None and list(two["extra"]) == ["extra.duration"]
    assert one["count"] == 1 and "y" in one["function"]


def test_bad_lines_are_said_and_the_rest_counted(gm):
    result = gm("gm-tally", input=b'nonsense\n{"event":"done","duration":NaN}\n' + lines({}), status=1)
    assert [line.split(b": ")[1] for line in result.err.splitlines()] == [b"stdin:1", b"stdin:2"]
    assert result.records[0]["count"] == 1
    assert gm("gm-tally", input=b"").out == b""


def test_the_first_interrupt_is_not_the_end(gm):
    process = gm.start("gm-tally", stdin=subprocess.PIPE)
    process.stdin.write(b"{}\nx\n")
    process.stdin.flush()
    until(lambda: process.err_path.read_bytes())
    process.send_signal(signal.SIGINT)
    process.stdin.write(lines({}))
    process.stdin.close()
    assert process.wait(20) == 1 and json.loads(process.out_path.read_bytes())["count"] == 1


def test_a_histogram_on_a_terminal(gm):
    values = [0.015] * 100 + [0.03] * 50 + [7.0]
    events = ({"duration": value, "function": "a\x1bb", "extra": {"é\x1b": -5}} for value in values)
    (gm.home / "events").write_bytes(lines(*events))
    shown = terminal(gm, "bash", "-c", "gm-tally < events")
    assert "\x1b" not in shown
    bars = re.findall(r"(?m)^ +([\d.]+) to ([\d.]+) +(█*) +(\d+)$", shown)
    assert [(float(low), float(high), len(bar), int(count)) for low, high, bar, count in bars if int(count)] == [
        (0.01, 0.02, 40, 100), (0.02, 0.05, 20, 50), (5, 10, 1, 1)]
    assert re.search(r"duration: p50 0\.015\d* s  p90", shown) and "max 7 s" in shown and r"é\x1b: p50 -5" in shown
    assert shown == gm("gm-tally", "--table", input=(gm.home / "events").read_bytes()).out.decode()
    assert terminal(gm, "bash", "-c", "gm-tally --json < events").startswith("{")


@pytest.mark.parametrize("values", [[0], [0, 0, 1e9], [-3, 4], [-1e-9, -5], [1e-300], [0, -2], list(range(1, 5000))])
def test_a_histogram_counts_everything_once(gm, values):
    shown = gm("gm-tally", "--table", input=lines(*({"duration": value} for value in values))).out.decode()
    counts = re.findall(r"(?m)^    .* to .* (\d+)$", shown)
    assert sum(map(int, counts)) == len(values) and len(counts) <= 12 and "█" in shown


def test_misuse(gm):
    for args in (["x"], ["--every=0"], ["--every=x"]):
        assert gm("gm-tally", *args, status=2).out == b""


def test_the_real_pipe_after_gm_work(gm, gearmand):
    gm("gm-submit", "-q", "resize", input=b"640\n320\nbad\n")
    records = gm("bash", "-c", """set -o pipefail
        gm-work --until-empty --tries=1 resize -- sh -c 'read w; echo "{\\"width\\":$w}" >&3; test $w -gt 0' |
        gm-tally""").records
    assert [(record["event"], record["count"]) for record in records] == [("dead", 1), ("done", 2)]
    assert records[1]["extra"]["width"]["max"] == 640 and records[1]["duration"]["count"] == 2


def test_one_interrupt_ends_a_whole_pipe_and_loses_nothing(gm, gearmand):
    gm("gm-submit", "-q", "n", input=b"1\n2\n")
    process = gm.start("bash", "-c", "gm-work n -- sh -c 'echo x >>begun; sleep 1' | gm-syslog ./nobody | gm-tally",
                       start_new_session=True)
    until((gm.home / "begun").exists)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(20)
    until(lambda: process.out_path.read_bytes())
    record = json.loads(process.out_path.read_bytes())
    assert record["event"] == "done" and record["count"] == len((gm.home / "begun").read_text().split())


def test_nothing_heavy_is_read_for_help(gm):
    assert b"ddsketch" not in gm("python3", "-X", "importtime", ROOT / "bin/gm-tally", "--help").err
