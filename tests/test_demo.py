"""The demo, examples/demo/run: it runs as told, cleans up behind itself, and fails when what it tells is not so."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, find_gearmand, strays, until

pytestmark = pytest.mark.slow

DEMO = ROOT / "examples/demo"


@pytest.fixture
def copy(tmp_path):
    """A copy of the demo to break, with the checkout's tools: the path of its folder."""
    root = tmp_path / "root"
    demo = root / "examples/demo"
    shutil.copytree(DEMO, demo, ignore=shutil.ignore_patterns("out"))
    shutil.copy(DEMO.parent / "common.sh", demo.parent)
    for name in ("bin", "libgm"):
        (root / name).symlink_to(ROOT / name)
    return demo


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def check_outcome(gm, out, printed: bytes) -> None:
    """Twelve pictures, two of which were dead; nothing left running."""
    from PIL import Image
    first, second, dead = (lines(out / name) for name in ("first.jsonl", "second.jsonl", "dead.jsonl"))
    assert sorted(event["event"] for event in first) == ["dead"] * 2 + ["done"] * 10 + ["retry"] * 2
    assert [event["event"] for event in second] == ["done"] * 2
    assert {event["unique"] for event in second} == {record["unique"] for record in dead}
    assert sorted((record["reason"], record["signal"]) for record in dead) == [("crash", "SIGKILL"), ("error", None)]
    assert gm("gm-dead", f"--quarantine={out}/quarantine.db").out == b""
    names = sorted(path.name for path in (DEMO / "photos").glob("*.jpg"))
    assert sorted(path.name for path in (out / "small").iterdir()) == names
    for name in names:
        with Image.open(out / "small" / name) as picture:
            picture.load()
            assert picture.width == (600 if name == "hubble.jpg" else 320)
    with Image.open(out / "contact-sheet.jpg") as sheet:
        assert sheet.width > 900 and sheet.height > 600
    assert b"$ gm-submit resize < photos.jsonl" in printed
    assert b"$ gm-dead -f resize | gm-requeue" in printed
    assert printed.endswith(b"Look at %b/contact-sheet.jpg\n" % bytes(out))
    assert strays(gm.home) == []


def test_runs_as_told(gm, tmp_path):
    find_gearmand()
    out = tmp_path / "a folder"
    env = {"GM_SERVERS": "127.0.0.1:1", "GM_QUARANTINE": "/nowhere/quarantine.db", "GM_TLS_CA": "/nowhere"}
    result = gm(DEMO / "run", out, env=env)
    check_outcome(gm, out, result.out)
    assert b"$ gm-server --store=gearmand.db" in result.out
    assert all(line.startswith((b"gm-work: resize: ", b"gm-status: ")) for line in result.err.splitlines())


@pytest.mark.slow(10)
def test_runs_on_geard(gm, tmp_path):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/python3", "-m", "pip", "install", "-q", "gear"], check=True, stdin=subprocess.DEVNULL)
    out = tmp_path / "out"
    path = f"{gm.env['PATH']}:{venv}/bin"
    result = gm(DEMO / "run", out, env={"DEMO_SERVER": "geard", "PATH": path})
    check_outcome(gm, out, result.out)
    assert b"geard stands in for gearmand" in result.out


def test_the_default_folder_is_made_afresh(gm, copy):
    (copy / "out").mkdir()
    (copy / "out/left over").touch()
    result = gm(copy / "run")
    check_outcome(gm, copy / "out", result.out)
    assert not (copy / "out/left over").exists()


def test_a_fix_that_fixes_nothing_fails_the_demo(gm, copy, tmp_path):
    """The difference is a comment: the trial on the payload shows it."""
    (copy / "resize-fixed.py").write_bytes((copy / "resize.py").read_bytes() + b"# fixed\n")
    result = gm(copy / "run", tmp_path / "out", status=1)
    assert result.err.splitlines()[-1].startswith(b"demo: exit status 1: gm-dead --data ")
    assert strays(gm.home) == []


def test_a_wrong_number_fails_the_demo(gm, copy, tmp_path):
    photos = copy / "photos.jsonl"
    photos.write_bytes(photos.read_bytes().replace(b'cat.jpg","width":320', b'cat.jpg","width":320000'))
    result = gm(copy / "run", tmp_path / "out", status=1)
    assert result.err.splitlines()[-1] == b"demo: jobs done: expected 10, found 9"
    assert strays(gm.home) == []


@pytest.mark.slow(10)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_an_interrupted_demo_ends_its_server(gm, copy, tmp_path, number):
    handler = copy / "resize.py"
    handler.write_text(handler.read_text().replace("import json\n", "import json\nimport time; time.sleep(1)\n"))
    process = gm.start(copy / "run", tmp_path / "out", start_new_session=True)
    until(lambda: (tmp_path / "out/first.jsonl").exists(), what="gm-work is started")
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    until(lambda: strays(gm.home) == [], what="everything has ended")


def test_misuse(gm, tmp_path):
    (tmp_path / "full/x").mkdir(parents=True)
    for args in ([tmp_path / "full"], ["a", "b"], [""], ["--nonsense"]):
        result = gm(DEMO / "run", *args, status=2)
        assert result.out == b"" and result.err.startswith(b"demo: ") and result.err.count(b"\n") == 1
    assert (tmp_path / "full/x").is_dir()
    assert gm(DEMO / "run", "--help").out.startswith(b"Usage: examples/demo/run [FOLDER]\n")


def test_the_photographs_are_small_and_their_licences_told():
    photos = list((DEMO / "photos").glob("*.jpg"))
    sources = (DEMO / "photos/SOURCES").read_text("utf-8")
    assert sum(photo.stat().st_size for photo in photos) < 800_000
    assert all(photo.name in sources for photo in photos)
