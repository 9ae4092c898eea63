"""Monday morning, examples/monday/run: on a thousand jobs here, on ten thousand by hand."""

from __future__ import annotations

import pytest
from conftest import ROOT, find_gearmand, strays

RUN = ROOT / "examples/monday/run"


@pytest.mark.slow(15)
def test_runs_as_told(gm, tmp_path):
    find_gearmand()
    out = tmp_path / "a folder"
    result = gm(RUN, "-n", "1000", out, env={"GM_SERVERS": "127.0.0.1:1", "GM_QUARANTINE": "/nowhere/quarantine.db"}, timeout=240)
    assert result.out.endswith(b"in all: 1000\n")
    for line in (b"causes: 4", b"their jobs: 990 8 1 1", b"what is in them: 990 same 8 edited 2 absent 0 changed",
                 b"requeued: 998", b"of them edited: 8", b"dropped: 2"):
        assert b"  ok: " + line + b"\n" in result.out
    assert b"still broken" in result.out and b"No such file or directory: it stays in quarantine" in result.err
    assert strays(gm.home) == []


@pytest.mark.parametrize("args", [["-n", "17"], ["-n"], ["-n", "x", "out"], ["a", "b"], ["--nonsense"]], ids=" ".join)
def test_misuse(gm, args):
    result = gm(RUN, *args, status=2)
    assert result.out == b"" and result.err.startswith(b"monday: ")
