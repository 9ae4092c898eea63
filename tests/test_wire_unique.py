"""The wire unique: whatever is packed is unpacked, and whatever else looks like it is a plain unique."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from libgm import wire
from libgm.wire import Header

counts = {"key": 1 << 48, "attempts": 1 << 10, "requeues": 1 << 9, "sends": wire.SENDS, "holds": 1 + wire.MAX_HOLDS}
known = st.builds(Header, priority=st.sampled_from(wire.PRIORITIES), known_bad=st.booleans(), waited=st.booleans(),
                  first_failed=st.none() | st.integers(1, (1 << 32) - 1),
                  **{name: st.integers(0, most - 1) for name, most in counts.items()})
overflowing = st.builds(Header, key=st.integers(0, (1 << 48) - 1), attempts=st.integers(0, 1 << 30),
                        requeues=st.integers(0, 1 << 30), sends=st.integers(0, wire.SENDS - 1), holds=st.integers(0, 63),
                        first_failed=st.none() | st.integers(1, 1 << 40))
hexadecimal = st.text("0123456789abcdef", min_size=1, max_size=63).map(str.encode)
small = st.one_of(   # own uniques that a wire unique has room for
    st.binary(min_size=1, max_size=40).map(lambda own: own.replace(b"\0", b"x")), hexadecimal, hexadecimal.map(bytes.upper),
    st.text("0123456789", min_size=41, max_size=63).map(str.encode), st.uuids().map(lambda own: str(own).encode()),
    st.binary().map(lambda own: hashlib.sha1(own).hexdigest().encode()), st.just(b""))
any_unique = st.one_of(small, st.binary(min_size=1, max_size=63).map(lambda own: own.replace(b"\0", b"x")))
functions = st.binary(min_size=1, max_size=40)
payloads = st.one_of(st.binary(max_size=40), st.binary(max_size=20).map(lambda data: b"\0" + data),
                     st.binary(max_size=20).map(lambda data: b"%gm1 " + data), st.just(b'%gm1 {"attempts":7}\nx'))
many = settings(max_examples=300, deadline=None)


def well_formed(unique: bytes) -> bool:
    return 1 <= len(unique) <= 63 and b"\0" not in unique


@pytest.mark.slow
@many
@given(functions, small, known, payloads)
@example(b"f", b"0" * 63, Header(), b"x")
@example(b"f", b"F" * 63, Header(), b"\0x")
def test_a_payload_is_never_touched_where_the_unique_has_room(function, own, header, data):
    unique, sent = wire.pack(function, own, header, data)
    assert well_formed(unique) and wire.unpack(function, unique, sent) == (own, header, data)
    assert sent == data or (len(own) >= wire.MAX_RAW and data[:1] == b"\0") or not (data or header.waited)


@pytest.mark.slow
@many
@given(functions, any_unique, known | overflowing, payloads)
def test_any_unique_and_any_counts_come_back(function, own, header, data):
    unique, sent = wire.pack(function, own, header, data)
    assert well_formed(unique) and wire.unpack(function, unique, sent) == (own, header, data)
    own_there, there = wire.parse(function, unique)
    assert (there.key, there.sends) == (header.key, header.sends) and own_there in (own, None)
    assert not (sent[:1] == b"\0" and len(unique) == 63)   # which a worker would take for the end of a unique


@many
@given(functions, st.binary(max_size=62).map(lambda rest: b"~" + rest), payloads)
def test_any_other_is_a_plain_unique(function, unique, data):
    assert wire.parse(function, unique) is None
    own, _, payload = wire.unpack(function, unique, data)
    assert own == unique and data.endswith(payload)


@pytest.mark.slow
@many
@given(functions, small, known, st.data())
def test_cut_lengthened_or_changed_it_is_plain(function, own, header, data):
    unique, _ = wire.pack(function, own, header, b"x")
    at = data.draw(st.integers(0, len(unique) - 1))
    cut, longer = unique[:at], unique + data.draw(st.sampled_from([b"0", b"x", b"~w"]))
    other = bytearray(unique)
    other[at] = data.draw(st.integers(1, 255))
    for forged in {cut, longer, bytes(other)} - {unique}:
        found = wire.parse(function, forged)   # by accident once in 65,536; then it is canonical all the same
        assert found is None or found[0] is None or wire.pack(function, found[0], found[1], b"x")[0] == forged
    found = wire.parse(function + b"x", unique)
    assert found is None or found[0] == own


@pytest.mark.slow
def test_accidents_are_rare():
    """A unique of another program that begins with ~ and 22 of our characters is taken for one of ours once in 65,536."""
    dice = random.Random(1)
    uniques = (b"~" + bytes(dice.choices(wire.ALPHABET, k=22 + dice.randrange(20))) for _ in range(50_000))
    assert sum(wire.parse(b"f", unique) is not None for unique in uniques) <= 4
    old = (b"~" + hashlib.sha1(b"%d" % number).hexdigest().encode() for number in range(50_000))
    assert sum(wire.parse(b"f", unique) is not None for unique in old) <= 4


@many
@given(functions, small, st.integers(0, (1 << 157) - 1))
def test_a_right_check_does_not_make_what_nobody_packs(function, own, number):
    """Forged with the check: one that is parsed is what pack() makes of it."""
    fields = [number >> 109, number >> 77 & 0xFFFFFFFF, number >> 45 & 0xFFFFFFFF, number & 0xFFF]
    for form in range(4):
        fields[3] = fields[3] & ~3 | form
        for body in (b"", own[:40], wire._encode([number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF])):
            check = wire.crc32(body, wire.crc32(wire.FIELDS.pack(*fields), wire.crc32(function, wire._SALT))) & 0xFFFF
            unique = b"~" + wire._encode((fields[0] >> 16, (fields[0] & 0xFFFF) << 16 | check, fields[1], fields[2]),
                                         divmod(fields[3], 85)) + body
            found = wire.parse(function, unique)
            if found is not None and found[0] is not None:
                assert wire.pack(function, *found, b"x")[0] == unique
            elif found is not None:
                assert wire.pack(function, b"z" * 41, found[1], b"x")[0] == unique


def test_jobs_of_the_gearmang_before_are_read():
    envelope = (b'%gm1 {"key":"0123456789abcdef0123456789abcdef","unique":"photo-17","attempts":2,"requeues":1,'
                b'"first_failed":1700000000,"priority":"high"}\nthe payload')
    for unique in (b"~" + b"a1" * 20, b"plain"):
        own, header, data = wire.unpack(b"f", unique, envelope)
        assert (own, data) == (b"photo-17", b"the payload")
        assert header == Header(0x0123456789AB, 1700000000, 2, 1, 0, 0, "high")
    assert wire.unpack(b"f", b"u", b'%gm1 {"attempts":1}\nx') == (b"u", Header(attempts=1), b"x")


def test_an_envelope_under_a_wire_unique_is_payload():
    unique, _ = wire.pack(b"f", b"own", Header(key=5), b"x")
    data = b'%gm1 {"attempts":9}\nx'
    assert wire.unpack(b"f", unique, data) == (b"own", Header(key=5), data)


@pytest.mark.slow
@many
@given(st.one_of(st.binary(max_size=60), st.dictionaries(st.sampled_from(sorted(wire.ENVELOPE_FIELDS)), st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=70))).map(lambda found: repr(found).encode())))
def test_whatever_stands_in_front_of_a_payload_nothing_breaks(data):
    own, _, payload = wire.unpack(b"f", b"u", b"%gm1 " + data)
    assert (b"%gm1 " + data).endswith(payload) and own


def test_a_number_of_sending_comes_after_another_one_also_when_they_begin_again():
    assert wire.later(1, 0) and not wire.later(0, 0) and not wire.later(0, 1)
    last = wire.SENDS - 1
    assert wire.next_sends(last) == 0 and wire.later(0, last) and not wire.later(last, 0)
    assert wire.key_value(wire.key_text(7)) == 7 and wire.key_text(7) == "000000000007"
    assert wire.key_value("0123456789ab" + "f" * 20) == 0x0123456789AB and 0 < wire.new_key() < 1 << 48


def test_what_a_worker_would_misread_is_told():
    unique, _ = wire.pack(b"f", b"own", Header(key=5), b"x")
    assert wire.misread(b"f", unique, b"x") and wire.misread(b"f", b"u", b'%gm1 {"attempts":1}\nx')
    assert wire.misread(b"f", b"u" * 63, b"\0x") and not wire.misread(b"f", b"u" * 62, b"\0x")
    assert not wire.misread(b"f", b"~u", b"%gm1 x\n") and not wire.misread(b"f", b"~" + b"a1" * 20, b"x")
