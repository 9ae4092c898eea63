"""gm-resume: ends pauses, and the brake that an outage has put on."""

from __future__ import annotations

import pytest
from conftest import until


def test_globs_end_what_they_match(gm, gearmand):
    gm("gm-pause", "-q", "mail", "resize", "img-*")
    assert gm("gm-resume", "*").records == [{"function": name, "ended": "pause"} for name in ("img-*", "mail", "resize")]
    assert b"gm-resume: mail: neither paused nor held" in gm("gm-resume", "mail", status=1).err


def test_a_glob_ends_the_pause_of_that_very_glob(gm, gearmand):
    gm("gm-pause", "-q", "img-[ab]")
    assert gm("gm-resume", "img-[ab]").records == [{"function": "img-[ab]", "ended": "pause"}]


@pytest.mark.slow
def test_it_ends_the_brake_and_what_is_held_is_due(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"".join(b"%d\n" % number for number in range(8)))
    gm("gm-work", "-q", "--until-empty", "--delay=1h", "f", "--", "false")
    held = [record for record in gm("gm-status", "--json").records if record["function"] == "f"]
    assert held[0]["held"] >= 1
    assert {"function": "f", "ended": "brake"} in gm("gm-resume", "f").records
    worker = gm.start("gm-work", "-q", "another", "--", "cat")
    until(lambda: gearmand.waiting(b"f") >= 1)
    worker.terminate()
    assert worker.wait(20) == 0


def test_a_file_that_is_not_there(gm):
    assert b"no such file" in gm("gm-resume", "f", status=111).err
