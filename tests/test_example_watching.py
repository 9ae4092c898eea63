"""examples/watching: collectd, Nagios, rsyslog, BlueOx's frames and Prometheus' text each see what is told there."""

from __future__ import annotations

import pytest
from conftest import ROOT, strays, until

RUN = ROOT / "examples/watching/run"


@pytest.mark.slow(30)
@pytest.mark.timeout(300)
def test_each_sees_what_is_told(gm, tmp_path):
    result = gm(RUN, tmp_path / "a folder", timeout=280)
    seen = [line for line in result.out.decode().splitlines() if line.startswith("  ok: ")]
    for who, times in (("Nagios: ", 15), ("collectd: ", 7), ("rsyslog: ", 3), ("BlueOx: ", 4), ("Prometheus: ", 3),
                       ("gm-reap: ", 1), ("gm-tally: ", 1)):
        assert sum(line.startswith("  ok: " + who) for line in seen) >= times, (who, seen)
    assert result.err == b""
    until(lambda: strays(gm.home) == [], what="everything has ended")


def test_misuse(gm, tmp_path):
    (tmp_path / "full/x").mkdir(parents=True)
    for args in ([tmp_path / "full"], ["a", "b"], [""], ["--nonsense"]):
        result = gm(RUN, *args, status=2)
        assert result.out == b"" and result.err.startswith(b"watching: ") and result.err.count(b"\n") == 1
    assert gm(RUN, "--help").out.startswith(b"Usage: examples/watching/run [FOLDER]\n")
