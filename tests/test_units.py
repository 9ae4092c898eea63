"""libgm.units: durations and times as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libgm import units
from libgm.errors import Usage


@pytest.mark.parametrize("text, seconds", [("90", 90), ("0", 0), ("90s", 90), ("1.5h", 5400), ("2d", 172800),
                                           ("5m", 300), ("1w", 604800), (".5", 0.5), ("0.001s", 0.001)])
def test_duration(text, seconds):
    assert units.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "-1h", "nan", "inf", "infs", "1y", "1hh", "1_0", "h",
                                  "1h30m", "1e10", "1 hour"])
def test_bad_duration_names_the_option(text):
    with pytest.raises(Usage) as caught:
        units.duration(text, "--delay")
    assert str(caught.value) == f"--delay: not a duration: {text!r} (a number with s, m, h, d or w)"


@pytest.mark.parametrize("text, epoch", [
    ("1970-01-02", 86400), ("1970-01-01T00:01", 60), ("1970-01-01T00:01:05", 65),
    ("1970-01-01T00:01:05Z", 65),
    ("1970-01-01T01:00:00+01:00", 0), ("1969-12-31T19:00:00-05:00", 0), ("1970-01-01 00:00:00.500", 0.5)])
def test_when_is_an_iso_time_and_utc_unless_it_says(text, epoch):
    assert units.when(text, "--since", now=5e9) == epoch


def test_when_is_an_age():
    assert units.when("2d", "--since", now=1e9) == 1e9 - 172800
    assert units.when("90", "--since", now=1e9) == 1e9 - 90


@pytest.mark.parametrize("text", ["", "yesterday", "-2d", "1970-13-01", "1970-01-01T25:00", "nan"])
def test_bad_when_names_the_option(text):
    with pytest.raises(Usage, match=r"^--until: neither an age"):
        units.when(text, "--until")


@given(st.integers(0, 253402300799))
def test_iso_and_epoch_are_a_round_trip(seconds):
    assert units.epoch(units.iso(seconds)) == seconds


def test_iso_is_whole_seconds_of_utc():
    assert units.iso(0.999) == "1970-01-01T00:00:00Z"
    assert units.iso(None) is None


@pytest.mark.slow
@given(st.text())
def test_any_text_is_a_time_or_a_usage_error(text):
    try:
        assert isinstance(units.when(text, "--since", now=0.0), float)
    except Usage:
        pass


def test_counted():
    assert [units.counted(number, "job") for number in (0, 1, 12)] == ["0 jobs", "1 job", "12 jobs"]


@pytest.mark.parametrize("seconds, text", [(0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (7200, "2h"),
                                           (86400, "1d"), (13 * 86400, "13d"), (14 * 86400, "2w")])
def test_age(seconds, text):
    assert units.age(seconds) == text
