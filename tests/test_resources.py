"""No tool leaves a socket, a file or (which Python tells from 3.13 on) a database open."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT
from helpers import EVENT

from libgm.shell.lines import dump

TOOLS = [
    ("gm-submit", "f"), ("gm-submit", "--wait", "g"), ("gm-status",), ("gm-status", "--workers"), ("gm-status", "--prometheus"),
    ("gm-check", "queue"), ("gm-check", "age"), ("gm-check", "dead", "-f", "nobody"), ("gm-check", "server", "--round-trip"),
    ("gm-reap", "--older-than=1"), ("gm-salvage", "gearmand.db"), ("gm-salvage", "--check", "gearmand.db"),
    ("gm-dead",), ("gm-dead", "1"), ("gm-history",), ("gm-syslog", "127.0.0.1:1"), ("gm-syslog", "--tcp", "127.0.0.1:1"),
    ("gm-syslog", "/nowhere/log"), ("gm-tally",), ("gm-drop", "1"), ("gm-requeue", "2")]


@pytest.mark.slow
def test_everything_is_closed(gm, gearmand, die):
    die("f", b"1\n2\n")
    gm.start("gm-work", "-q", "g", "--", "cat")
    for tool, *args in TOOLS:
        result = gm(sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-W", "ignore::DeprecationWarning",
                    ROOT / "bin" / tool, *args, input=dump(EVENT), status=None)
        assert b"ResourceWarning" not in result.err, (tool, args, result)
