"""Admin answers: no function's name hides another function, or forges its figures; servers that know fewer questions."""

from __future__ import annotations

import contextlib

import pytest
from gearman_peers import CAN_DO, STATUS_RES, SUBMIT_BG, Raw, Server, frame, requests
from hypothesis import given
from hypothesis import strategies as st

from libgm.gearman import address
from libgm.gearman.admin import Admin, BadLine, Queue, ask_all, pair
from libgm.gearman.connection import ServerLost

VERSION, STATUS, PRIORITIES = b"OK 1.1.20\n", b"resize\t3\t1\t2\n", b"resize\t0\t2\t0\t2\n"
HOSTILE = [b"\n", b"\t", b"\r", b"a\nb", b"a\n", b"\na", b"a\r\n", b".", b"\n.\n", b"a\n.\nOK 1.1.20\n", b"ERR\n", b"OK",
           b"a\nresize\t9\t9\t9\nb", b"a\nresize\t9\t9\t9\nresize\t0\t9\t0\t9\nb", b"resize\t9\t9", b"a\nresize",
           b"\xff\xfe", b" ", b"a b", b"%s%n", b"x" * 3000]


def admin_of(server) -> Admin:
    return Admin(address.parse_servers(str(server))[0])


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_is_itself_and_no_other(memory_gearmand, name):
    raw = Raw(memory_gearmand.server)
    for unique in (b"1", b"2"):
        raw.submit(b"resize", unique, b"x")
    raw.submit(name, b"3", b"x")
    raw.say(CAN_DO, name)
    raw.submit(b"zoom", b"4", b"x")   # the job's acknowledgement: the server has seen the CAN_DO
    admin = admin_of(memory_gearmand.server)
    assert sorted(admin.queues()) == sorted([Queue(b"resize", 2, 0, 0, 0, 2, 0), Queue(name, 1, 0, 1, 0, 1, 0),
                                             Queue(b"zoom", 1, 0, 0, 0, 1, 0)])
    assert not admin.problems
    admin.shutdown()
    raw.close()


def test_gm_status_shows_functions_of_any_name_beside_the_others(gm, memory_gearmand):
    raw = Raw(memory_gearmand.server)
    raw.submit(b"resize", b"1", b"x")
    forging = b"a\n.\nresize\t9\t9\t9\nresize\t0\t9\t0\t9\nb"
    raw.submit(forging, b"2", b"x")
    records = gm("gm-status").records
    assert {record["function"]: record["waiting"] for record in records} == {"resize": 1, forging.decode(): 1}
    assert len(gm("gm-status", "--table").out.splitlines()) == 3
    assert gm("gm-check", "queue").out.startswith(b"GEARMANG QUEUE OK - 2 waiting, 2 functions")
    raw.close()


names = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name) | \
    st.lists(st.sampled_from([b"\n", b"\t", b"\r", b".", b"f", b"1\t2\t3", b"0\t1\t2\t3", b"f\t1\t1\t1"]),
             min_size=1, max_size=9).map(b"".join)
counts = st.integers(-1, 12)


@given(st.lists(st.builds(Queue, names, counts, counts, counts, counts, counts, counts), max_size=5))
def test_the_functions_of_two_lists_are_those_that_were_written(queues):
    status = b"".join(b"%b\t%d\t%d\t%d\n" % queue[:4] for queue in queues).split(b"\n")[:-1]
    priorities = b"".join(b"%b\t%d\t%d\t%d\t%d\n" % (queue.function, *queue[4:], queue.workers)
                          for queue in queues).split(b"\n")[:-1]
    assert pair(status, priorities) == queues


def test_a_function_that_comes_between_the_two_lists_is_no_confusion():
    assert pair([b"f\t1\t0\t0"], [b"f\t0\t1\t0\t0", b"g\t0\t1\t0\t0"]) is None
    assert pair([b"f\t1\t0\t0"], [b"g\t0\t1\t0\t0"]) is None and pair([b"f"], [b"f"]) is None


def server_with(answers: dict[bytes, bytes], unknown: bytes = b"") -> Server:
    """A server that answers these admin commands, and unknown to others; and tells the status of jobs, as they all do."""
    def serve(connection):
        for kind, said in requests(connection):
            connection.sendall(answers.get(said, unknown) if kind is None else
                               frame(STATUS_RES, said, b"0", b"0", b"", b""))
    return Server(serve)


def test_a_server_that_passes_questions_over():
    """geard: it knows neither versions nor priorities, and drops the jobs of a worker that goes away."""
    with contextlib.closing(server_with({b"status": STATUS + b".\n"})) as server:
        admin = admin_of(server)
        assert admin.queues() == [(b"resize", 3, 1, 2, None, None, None)] and not admin.problems
        assert admin.version() is None and admin.drops_released_jobs()
        admin.shutdown()


def test_what_a_server_does_not_count_is_null(gm):
    with contextlib.closing(server_with({b"status": STATUS + b".\n"})) as server:
        record, = gm("gm-status", "-s", str(server)).records
        assert record["waiting"] == 2 and record["high"] is record["normal"] is record["low"] is None
        assert b"queued_jobs" not in gm("gm-status", "--prometheus", "-s", str(server)).out
        assert gm("gm-check", "server", "-s", str(server)).out.startswith(b"GEARMANG SERVER OK")


def test_a_server_that_refuses_questions():
    """Perl's Gearman::Server."""
    with contextlib.closing(server_with({b"status": STATUS + b".\n", b"version": b"v1.130.1\n"},
                                        b"ERR unknown_command \r\n")) as server:
        admin = admin_of(server)
        assert admin.queues() == [(b"resize", 3, 1, 2, None, None, None)] and admin.version() == "v1.130.1"
        with pytest.raises(ServerLost, match="no list: ERR unknown_command"):
            admin.workers()
        admin.shutdown()


def test_gearmand_keeps_released_jobs_and_says_its_version(memory_gearmand):
    admin = admin_of(memory_gearmand.server)
    assert admin.version().startswith("OK 1.") and not admin.drops_released_jobs()
    admin.shutdown()


@pytest.mark.parametrize("bad", [b"a\n", b"a\t1\n", b"a\t1\tx\t0\n", b"a\t1 \t0\t0\n", b"a\t1_0\t0\t0\n", b"\n.\n"])
def test_a_line_that_cannot_be_read_is_named_once_and_passed_over(bad):
    status = b"first\t1\t0\t0\n" + bad + bad + STATUS
    with contextlib.closing(server_with({b"status": status + b".\n"})) as server:
        answers, problems = ask_all([server.address], Admin.queues)
    assert [queue.function for queue in answers[0][1]] == [b"first", b"resize"]
    problem, = problems
    assert isinstance(problem, BadLine) and str(problem).startswith(f"{server}: status: line passed over: ")
    assert "more" in str(problem) and "\n" not in str(problem)


def test_workers_by_line():
    workers = b"30 127.0.0.1 gm work : f g\n31 ::1 - :\nforged : f\n32 10.0.0.1 a : b : c\r\n.\n"
    with contextlib.closing(server_with({b"workers": workers})) as server:
        admin = admin_of(server)
        assert admin.workers() == [(30, "127.0.0.1", b"gm work", [b"f", b"g"]), (31, "::1", b"-", []),
                                   (32, "10.0.0.1", b"a : b", [b"c"])]
        assert len(admin.problems) == 1
        admin.shutdown()


def test_a_long_answer_of_long_names(memory_gearmand):
    raw = Raw(memory_gearmand.server)
    for number in range(300):
        raw.say(SUBMIT_BG, b"%05d\n" % number * 500, b"%d" % number, b"x")
    for _ in range(300):
        raw.hear()
    admin = admin_of(memory_gearmand.server)
    assert {queue.function for queue in admin.queues()} == {b"%05d\n" % number * 500 for number in range(300)}
    admin.shutdown()
    raw.close()


def test_one_server_that_is_down_hides_no_other(memory_gearmand):
    down = address.Server("127.0.0.1", 1, False)
    up = address.parse_servers(memory_gearmand.server)[0]
    answers, problems = ask_all([down, up], Admin.queues)
    assert answers == [(up, [])] and [type(problem) for problem in problems] == [ServerLost]
