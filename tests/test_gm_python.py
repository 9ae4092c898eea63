"""gm-python: a Python callable behind a pipe of records and answers, with a server and without."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, until

MODULE = '''
import os, subprocess, sys
from libgm.python import Drop, Quarantine, Retry

def upper(job): return job.text.upper()
def same(job): return job.data
def nothing(job): pass
def double(job): return {"twice": job.json["n"] * 2}
def about(job): return [job.function, job.unique, job.handle, job.attempts, job.record["priority"]]
def noisy(job):
    print("printed")
    sys.stdout.write("written")
    os.write(1, b"to the descriptor")
    subprocess.run(["echo", "by a child"])
    return sys.stdin.read() + "quiet"
def measure(job):
    job.extra(width=640)
    job.extra(height=480)
    job.progress(1, 2)
    job.partial("part")
    job.partial(b"\\xff")
    job.log("half", "way")
def fail(job):
    job.log("before")
    job.extra(n=1)
    raise ValueError("wrong: " + job.text)
def retry(job): raise Retry(delay=7.5)
def quarantine(job): raise Quarantine("no use")
def drop(job): raise Drop("gone")
def leave(job): sys.exit(job.text)
def die(job): os._exit(9)
def surrogate(job): return "\\ud800"
def surrogate_error(job): raise ValueError("\\ud800")
def no_json(job): return {1, 2}
def no_number(job): job.extra(n=float("nan"))
def no_result(job): return {"n": float("inf")}
def no_delay(job): raise Retry(delay=float(job.text))
def submits_no_number(job): job.submit("next", float("nan"))
def noted(job):
    error = ValueError("wrong\\nand more")
    error.__notes__ = ["a note", "another"]   # as add_note() does from Python 3.11 on
    raise error
class Nameless(Exception):
    def __str__(self): return 1 / 0
def nameless(job): raise Nameless
def setup_noted(): noted(None)
def deep(job): return deep(job)
def setup():
    print("setting up", file=sys.stderr)
    return []
def count(job, state):
    state.append(job.text)
    return str(len(state))
def teardown(state): open("torn-down", "w").write("".join(state))
def first(job): return job.submit("next", {"b": job.text, "a": 1})
def many(job):
    for number, data in enumerate(("text", b"\\xff", "%gm1 {}\\n", ["json"])):
        job.submit("next", data, unique=f"{job.text}-{number}", priority="high")
def badly(job): job.submit("next", *job.json)
def broken(): raise OSError("no database")
class Holder:
    @staticmethod
    def inner(job): return "inner"
word = "no callable"
'''


@pytest.fixture
def module(tmp_path):
    (tmp_path / "mod.py").write_text(MODULE)


def call(gm, name, *payloads, status=0, options=()):
    lines = b"".join(json.dumps({"data": payload}).encode() + b"\n" for payload in payloads)
    return gm("gm-python", *options, f"mod:{name}", input=lines, status=status)


def test_it_works_without_a_server(gm, module):
    assert gm("gm-python", "mod:upper", input='{"data":"grün"}\n{"data":"x"}'.encode()).records == [
        {"ok": True, "result": "GRÜN"}, {"ok": True, "result": "X"}]


def test_what_a_handler_returns_is_the_result(gm, module):
    every = bytes(range(256))
    line = json.dumps({"data_b64": base64.b64encode(every).decode()}).encode()
    answer, = gm("gm-python", "mod:same", input=line).records
    assert base64.b64decode(answer["result_b64"]) == every
    assert call(gm, "nothing", "x").records == [{"ok": True}]
    assert call(gm, "double", '{"n":4}').records == [{"ok": True, "result": '{"twice": 8}'}]
    assert call(gm, "Holder.inner", "x").records == [{"ok": True, "result": "inner"}]


def test_what_a_handler_is_told_of_its_job(gm, module):
    line = b'{"function":"f","unique":"u","handle":"H:x:1","attempts":2,"priority":"low","data":""}\n'
    answer, = gm("gm-python", "mod:about", input=line).records
    assert json.loads(answer["result"]) == ["f", "u", "H:x:1", 2, "low"]


def test_print_and_children_do_not_break_the_protocol(gm, module):
    result = call(gm, "noisy", "1", "2")
    assert result.records == [{"ok": True, "result": "quiet"}] * 2
    for said in (b"printed", b"written", b"to the descriptor", b"by a child"):
        assert said in result.err


def test_extra_progress_partial_and_log(gm, module):
    result = call(gm, "measure", "x")
    assert result.records == [{"progress": [1, 2]}, {"partial": "part"}, {"partial_b64": "/w=="},
                              {"ok": True, "extra": {"width": 640, "height": 480}}]
    assert b"half way\n" in result.err


def test_an_exception_is_the_error_and_its_traceback_stderr(gm, module):
    answer, = call(gm, "fail", "x", status=1).records
    assert answer["ok"] is False and answer["error"] == "ValueError: wrong: x" and "verdict" not in answer
    assert answer["stderr"].startswith("before\nTraceback") and answer["stderr"].endswith("ValueError: wrong: x")
    assert "libgm" not in answer["stderr"]   # none of our own frames


def test_the_error_is_the_exception_s_line_and_its_notes_stay_in_stderr(gm, module):
    answer, = call(gm, "noted", "x", status=1).records
    assert answer["error"] == "ValueError: wrong"
    assert "and more" in answer["stderr"]
    if sys.version_info >= (3, 11):   # earlier ones know no notes
        assert answer["stderr"].endswith("a note\nanother")


def test_a_group_of_exceptions_is_told_by_its_own_line(gm, tmp_path):
    (tmp_path / "mod.py").write_text("""
class Group(Exception):
    exceptions = ()
def fail(job):
    try:
        raise ExceptionGroup("two of them", [ValueError("a"), TypeError("b")])
    except NameError:   # before Python 3.11
        raise Group("two of them (2 sub-exceptions)") from None
""")
    answer, = call(gm, "fail", "x", status=1).records
    assert answer["error"].endswith("Group: two of them (2 sub-exceptions)")


@pytest.mark.parametrize("delay", ["nan", "inf", "-1", "soon"])
def test_a_delay_that_is_none_fails_its_job_alone(gm, module, delay):
    answers = call(gm, "no_delay", delay, "2", status=1).records
    assert answers[0]["error"].startswith("ValueError: ") and "delay" not in answers[0]
    assert answers[1]["delay"] == 2


def test_verdicts(gm, module):
    assert call(gm, "retry", "x", status=1).records == [
        {"ok": False, "error": "to be tried again", "verdict": "retry", "delay": 7.5}]
    assert call(gm, "quarantine", "x", status=1).records == [{"ok": False, "error": "no use", "verdict": "dead"}]
    assert call(gm, "drop", "x", status=1).records == [{"ok": False, "error": "gone", "verdict": "drop"}]


@pytest.mark.slow
@pytest.mark.parametrize("name, error", [
    ("leave", "SystemExit"), ("surrogate", "UnicodeEncodeError"), ("surrogate_error", "ValueError: ?"),
    ("no_json", "TypeError"), ("no_number", "ValueError"), ("no_result", "ValueError"), ("submits_no_number", "ValueError"),
    ("nameless", "mod.Nameless: <exception str() failed>"), ("noted", "ValueError: wrong"),
    ("deep", "RecursionError"), ("double", "JSONDecodeError")])
def test_what_cannot_be_answered_fails_its_job_alone(gm, module, name, error):
    answers = call(gm, name, "x", "y", status=1).records
    assert len(answers) == 2 and not any(answer["ok"] for answer in answers) and error in answers[0]["error"]


def test_lines_that_are_no_records(gm, module):
    lines = b'nix\n[1]\n\n{"data":"x","x":NaN}\n{"data":"x","x":1e400}\n{"data":7}\n{"data":"x"}\n'
    answers = gm("gm-python", "mod:upper", input=lines, status=1).records
    assert [answer.get("error") for answer in answers][1:] == [
        "not a JSON object", "not JSON: NaN is not a JSON number", "not JSON: 1e400 is out of range",
        "data is not a string: quote it, or use .data|tojson in jq", None]
    assert answers[0]["error"].startswith("not JSON")


def test_set_up_and_clean_up(gm, module, tmp_path):
    options = ("--setup=setup", "--teardown=teardown")
    result = call(gm, "count", "a", "b", options=options)
    assert [answer["result"] for answer in result.records] == ["1", "2"] and result.err.count(b"setting up") == 1
    assert (tmp_path / "torn-down").read_text() == "ab"


@pytest.mark.parametrize("name, options, message", [
    ("mod:nix", (), "mod:nix: AttributeError"), ("nix:f", (), "nix:f: ModuleNotFoundError"),
    ("mod:word", (), "mod:word: not callable"), ("mod", (), "mod: not MODULE:CALLABLE"),
    ("bad:f", (), "bad:f: SyntaxError"), ("leaves:f", (), "leaves:f: SystemExit: 0"),
    ("mod:upper", ("--setup=setup_noted",), "setup_noted: ValueError: wrong\n"),
    ("mod:upper", ("--setup=broken",), "broken: OSError: no database"),
    ("mod:upper", ("--teardown=nix",), "nix: AttributeError")])
def test_what_cannot_be_loaded_is_said_before_a_job_is_read(gm, module, tmp_path, name, options, message):
    (tmp_path / "bad.py").write_text("def f(:\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    result = gm("gm-python", *options, name, input=b'{"data":"x"}\n', status=1)
    assert result.out == b"" and f"gm-python: {message}".encode() in result.err


def test_the_current_directory_comes_first(gm, tmp_path):
    (tmp_path / "json").mkdir()
    (tmp_path / "colorsys.py").write_text("def f(job): return 'mine'\n")
    assert gm("gm-python", "colorsys:f", input=b'{"data":""}\n').records == [{"ok": True, "result": "mine"}]


def test_a_worker_in_three_lines(gm, gearmand, tmp_path):
    (tmp_path / "images.py").write_text("def resize(job):\n    job.extra(size=len(job.data))\n    return job.data[:2]\n")
    gm("gm-submit", "-q", "resize", input=b"abc\ndefg\n")
    records = gm("gm-work", "--pipe", "--until-empty", "resize", "--", "gm-python", "images:resize").records
    assert sorted(record["extra"]["size"] for record in records) == [3, 4]


def test_failures_of_a_handler_are_retried_and_quarantined(gm, gearmand, module):
    gm("gm-submit", "-q", "f", input=b"x\n")
    gm("gm-work", "--pipe", "--until-empty", "--delay=0", "f", "--", "gm-python", "mod:fail")
    record, = gm("gm-dead").records
    assert (record["error"], record["attempts"], record["reason"]) == ("ValueError: wrong: x", 3, "error")
    assert record["stderr"].startswith("before\nTraceback")


def test_a_handler_that_ends_the_process_takes_the_blame(gm, gearmand, module):
    gm("gm-submit", "-q", "f", input=b"x\n")
    gm("gm-work", "--pipe", "--until-empty", "--tries=1", "f", "--", "gm-python", "mod:die")
    record, = gm("gm-dead").records
    assert (record["exit"], record["error"], record["data"]) == (9, "exit status 9", "x")


@pytest.mark.slow
def test_a_module_that_cannot_be_imported_is_the_worker_s_fault(gm, gearmand, tmp_path):
    gm("gm-submit", "-q", "f", input=b"x\n")
    worker = gm.start("gm-work", "--pipe", "--tries=1", "f", "--", "gm-python", "later:f")
    until(lambda: b"ended before it read a job" in worker.err_path.read_bytes())
    (tmp_path / "later.py").write_text("def f(job): return 'done'\n")
    until(lambda: b'"event":"done"' in worker.out_path.read_bytes())
    event = json.loads(worker.out_path.read_bytes().splitlines()[-1])
    assert event["attempts"] == 1
    worker.terminate()
    assert worker.wait(20) == 0


def submitted(gm) -> list:
    """The payloads that wait for the function next, in their order."""
    script = "import sys, json; print(json.dumps(sys.stdin.buffer.read().decode('latin-1')), file=open('seen', 'a'))"
    gm("gm-work", "--until-empty", "next", "--", "python3", "-c", script)
    return [json.loads(line).encode("latin-1") for line in open(gm.home / "seen")]


def test_a_handler_submits_the_next_job_once(gm, gearmand, module):
    handles = [answer["result"] for answer in call(gm, "first", "x", "x", "y").records]
    assert handles[0] == handles[1] != handles[2] and handles[0].startswith("H:")
    assert submitted(gm) == [b'{"a": 1, "b": "x"}', b'{"a": 1, "b": "y"}']


def test_what_a_handler_submits_arrives_as_it_is(gm, gearmand, module):
    call(gm, "many", "x")
    assert submitted(gm) == [b"text", b"\xff", b"%gm1 {}\n", b'["json"]']
    assert gearmand.waiting(b"next") == 0


@pytest.mark.parametrize("args, error", [
    ('[""]', "empty payload"), ('["x", "u", "urgent"]', "priority is not one of"), (json.dumps(["x", "u" * 64]), "unique of 64"),
])
def test_what_cannot_be_submitted_fails_its_job(gm, module, args, error):
    answer, = call(gm, "badly", args, status=1).records
    assert not answer["ok"] and error in answer["error"]


def test_a_server_that_is_away_fails_the_job_and_one_that_comes_back_is_found(gm, new_gearmand, module):
    server = new_gearmand("store.db")
    gm.env["GM_SERVERS"] = server.server
    process = gm.start("gm-python", "mod:first", stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"GM_TIMEOUT": "0.5"})

    def ask() -> dict:
        process.stdin.write(b'{"data":"x"}\n')
        process.stdin.flush()
        return json.loads(process.stdout.readline())
    assert ask()["ok"]
    server.kill()
    answer = ask()
    assert not answer["ok"] and "cannot connect" in answer["error"]
    server.start()
    assert ask()["ok"]
    assert server.waiting(b"next") == 1


def test_the_end_of_gm_work_cleans_up(gm, gearmand, module, tmp_path):
    gm("gm-submit", "-q", "f", input=b"x\n")
    worker = gm.start("gm-work", "--pipe", "f", "--", "gm-python", "--setup=setup", "--teardown=teardown", "mod:count")
    until(lambda: worker.out_path.read_bytes())
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert (tmp_path / "torn-down").read_text() == "x"


def test_example(gm, gearmand):
    import io

    from PIL import Image
    picture = io.BytesIO()
    Image.new("RGB", (1280, 960)).save(picture, "PNG")
    worker = gm.start("gm-work", "--pipe", "resize", "--", "gm-python", "--setup=setup", "images:resize",
                      cwd=ROOT / "examples/pipe")
    gm("gm-submit", "-q", "resize", input=b"no picture\n")
    answer, = gm("gm-submit", "--wait", "resize", "-", input=picture.getvalue()).records
    assert Image.open(io.BytesIO(base64.b64decode(answer["result_b64"]))).size == (640, 480)
    record, = until(lambda: gm("gm-dead", status=None).records)
    assert record["reason"] == "rejected" and record["error"].startswith("no picture:")
    done = until(lambda: [event for event in map(json.loads, worker.out_path.read_bytes().splitlines())
                          if event["event"] == "done"])
    assert done[0]["extra"] == {"width": 1280, "height": 960}
