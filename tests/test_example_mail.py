"""examples/mail: what goes in comes out, whatever is killed on the way; the accounts notice when it does not."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, find_gearmand, strays, until

pytestmark = pytest.mark.slow

MAIL = ROOT / "examples/mail"


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def check_outcome(out, messages: int, printed: bytes) -> None:
    """What account.py says, said again from the files alone: the two must not be wrong in the same way."""
    truth, dead = lines(out / "truth.jsonl"), lines(out / "dead.jsonl")
    assert len(truth) == messages
    good = {image for letter in truth if not letter["unreadable"] for image in letter["images"]}
    assert {path.name for path in (out / "images").iterdir()} == good
    died = {record["function"] for record in dead}
    assert died <= {"decode_mail", "extract_image"} and len(dead) >= messages // 40
    sent = {path.stem for path in (out / "sent").iterdir()}
    assert sent == {letter["message"] for letter in truth if not letter["unreadable"] and not letter["bad"]}
    assert b"\n  ok: gearmand was restarted, and workers were killed: yes\n" in printed
    assert (out / "disturbed.log").read_bytes().count(b"killed ") > 3


@pytest.mark.slow(50)
@pytest.mark.timeout(400)
def test_the_chain_in_python(gm, tmp_path):
    find_gearmand()
    out = tmp_path / "a folder"
    result = gm(MAIL / "run", "400", out, timeout=380)
    check_outcome(out, 400, result.out)
    assert len({letter["shape"] for letter in lines(out / "truth.jsonl")}) > 60
    assert strays(tmp_path) == []


@pytest.mark.slow(30)
@pytest.mark.timeout(400)
def test_the_chain_in_shell(gm, tmp_path):
    find_gearmand()
    out = tmp_path / "a folder"
    result = gm(MAIL / "run", "--shell", "20", out, timeout=380)
    check_outcome(out, 20, result.out)
    assert b"-- shell/decode_mail >" in result.out and b"gm-python" not in result.out
    assert strays(tmp_path) == []


def test_an_interrupted_run_leaves_nothing_running(gm, tmp_path):
    find_gearmand()
    process = gm.start(MAIL / "run", "300", tmp_path / "out", start_new_session=True)
    killed = tmp_path / "out/disturbed.log"
    until(lambda: killed.exists() and killed.read_bytes(), timeout=60, what="the run is in its midst")
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    until(lambda: strays(gm.home) == [], what="everything has ended")


def test_the_units_of_the_readme_work(gm, gearmand, tmp_path):
    """Its OPTIONS and COMMAND, as contrib/systemd starts them, from another folder than the mail's."""
    mail = tmp_path / "mail"
    make_mail(mail, 2, "one_attachment", "odd_charsets")
    for path in MAIL.glob("*.py"):
        shutil.copy(path, mail)
    for folder in "tmp", "spool", "parts", "mail", "images", "small", "sent":
        (mail / folder).mkdir()
    options, command = re.search(r'"OPTIONS=(.+)\\nCOMMAND=(.+)\\n" >', (MAIL / "README").read_text()).groups()
    gm("gm-submit", "-q", "fetch_mail", input="\n".join(os.listdir(mail / "inbox/new")).encode())
    for stage in "fetch_mail", "decode_mail", "extract_image", "resize", "send_complete":
        words = command.replace("/srv/mail", str(mail)).replace("$stage", stage).split()
        events = gm("gm-work", "--until-empty", *options.split(), stage, "--", *words).records
        assert [event["event"] for event in events] == ["done", "done"], events
    assert {path.stem for path in (mail / "sent").iterdir()} == {letter["message"] for letter in lines(mail / "truth.jsonl")}


def make_mail(folder, count: int, *shapes: str) -> list[dict]:
    """Write mail to folder/inbox; the truth about it."""
    folder.mkdir(exist_ok=True)
    subprocess.run([sys.executable, MAIL / "make-mail.py", str(count), "7", "inbox", "truth.jsonl", *shapes],
                   cwd=folder, check=True)
    return lines(folder / "truth.jsonl")


def test_the_same_seed_makes_the_same_mail(tmp_path):
    shapes = "several_formats", "inline_by_cid", "odd_charsets", "ragged_base64", "line_ends_of_all_kinds", "noise"
    truth = make_mail(tmp_path / "a", 40, *shapes)
    assert make_mail(tmp_path / "b", 40, *shapes) == truth
    assert sorted({letter["shape"] for letter in truth}) == sorted(shapes)
    assert len({letter["message"] for letter in truth}) == 40


@pytest.fixture
def done(tmp_path):
    """A folder where the chain is through with 20 messages, one of them in quarantine."""
    from PIL import Image
    for name in "images", "small", "sent":
        (tmp_path / name).mkdir()
    for letter in make_mail(tmp_path, 20, "one_attachment", "no_boundary"):
        path = tmp_path / "inbox/new" / letter["file"]
        if letter["unreadable"]:
            job = {"function": "decode_mail", "data": json.dumps({"message": letter["message"]})}
            (tmp_path / "dead.jsonl").write_text(json.dumps(job) + "\n")
        else:
            part = email.message_from_bytes(path.read_bytes()).get_payload(1).get_payload(decode=True)
            (tmp_path / "images" / letter["images"][0]).write_bytes(part)
            Image.new("RGB", (9, 9)).save(tmp_path / "small" / (letter["images"][0] + ".jpg"))
            notice = json.dumps({"subject": letter["subject"]})
            (tmp_path / "sent" / (letter["message"] + ".json")).write_text(notice)
        path.unlink()
    return tmp_path


def account(folder) -> tuple[int, str]:
    """(exit status, stderr) of account.py"""
    found = subprocess.run([sys.executable, MAIL / "account.py", "truth.jsonl", "dead.jsonl"], cwd=folder, capture_output=True)
    return found.returncode, found.stderr.decode()


def test_accounts_that_agree(done):
    assert account(done) == (0, "")


def first(folder):
    return min(folder.iterdir())


@pytest.mark.parametrize("spoil, said", [
    (lambda out: first(out / "images").unlink(), "images/, each once, byte for byte: 1 are missing"),
    (lambda out: first(out / "images").write_bytes(b"else"), "images/, each once, byte for byte: 1 are missing"),
    (lambda out: first(out / "small").unlink(), "small/, each once: 1 are missing"),
    (lambda out: first(out / "sent").unlink(), "sent/, each once: 1 are missing"),
    (lambda out: (out / "sent/0.json").write_text('{"subject":""}'), "sent/, each once: 0 are missing, 1 are too many"),
    (lambda out: first(out / "sent").write_text('{"subject":"?"}'), "subjects read as they were written: 1 are missing"),
    (lambda out: (out / "dead.jsonl").write_text(""), "for they cannot be read: 1 are missing"),
    (lambda out: (out / "dead.jsonl").write_text('{"function":"resize","data":"{}"}'), "should not be there: 0 are missing, 1"),
    (lambda out: (out / "inbox/new/x").touch(), "files left in inbox/new: 0 are missing, 1 are too many"),
], ids=["image lost", "image changed", "small lost", "notice lost", "notice twice", "subject", "nobody died", "innocent", "left"])
def test_accounts_that_differ(done, spoil, said):
    spoil(done)
    status, text = account(done)
    assert status == 1 and said in text


def test_misuse(gm, tmp_path):
    (tmp_path / "full/x").mkdir(parents=True)
    for args in (["10", tmp_path / "full"], ["10", "a", "b"], ["ten"], ["10", ""], ["--nonsense"]):
        result = gm(MAIL / "run", *args, status=2)
        assert result.out == b"" and result.err.startswith(b"mail: ") and result.err.count(b"\n") == 1
    assert gm(MAIL / "run", "--help").out.startswith(b"Usage: examples/mail/run [--shell] [MESSAGES [FOLDER]]\n")
