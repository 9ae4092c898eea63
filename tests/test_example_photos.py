"""examples/photos: it runs as told, its pictures are right, and what is in quarantine says why."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from conftest import ROOT, find_gearmand, strays

PHOTOS = ROOT / "examples/photos"


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


class Page(HTMLParser):
    """What a contact sheet shows: its figures, what it refers to, its text."""

    def __init__(self, text: str):
        super().__init__()
        self.figures, self.files, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "figure":
            self.figures.append(found["class"])
        self.files += [found[name] for name in ("href", "src") if name in found]

    def handle_data(self, data):
        self.words.append(data.strip())


@pytest.mark.slow(15)
def test_runs_as_told(gm, tmp_path):
    find_gearmand()
    out = tmp_path / "a folder"
    result = gm(PHOTOS / "run", out, env={"GM_SERVERS": "127.0.0.1:1", "GM_QUARANTINE": "/nowhere/quarantine.db"}, timeout=150)
    assert result.out.endswith(b"Look at %b/contact-sheet.html\n" % bytes(out))
    assert strays(tmp_path) == []

    first, second = lines(out / "first.jsonl"), lines(out / "second.jsonl")
    assert {event["event"] for event in second} == {"done"}
    sizes = {(event["extra"]["width"], event["extra"]["height"]) for event in first if event["event"] == "done"}
    assert {(600, 400), (400, 600)} <= sizes

    dead = {record["data"]: record for record in gm("gm-dead", f"--quarantine={out}/quarantine.db").records}
    assert sorted(dead) == ["bad-bomb.png", "bad-empty.jpg", "bad-memory.png", "bad-notes.jpg", "bad-slow.jpg", "bad-text.png",
                            "bad-truncated.jpg"]
    page = Page((out / "contact-sheet.html").read_text("utf-8"))
    assert page.figures.count("back") == 5 and len(page.figures) == len(list((out / "shown").iterdir()))
    assert all((out / name).is_file() for name in page.files) and page.files
    assert {record["error"] for record in dead.values()} <= set(page.words)
    check_pictures(out)


def check_pictures(out) -> None:
    """Upright whatever way the camera was held, of the right size, without a location."""
    from PIL import ExifTags, Image, ImageChops, ImageStat
    names = {path.name.removesuffix(".jpg") for path in (out / "large").iterdir()}
    assert names == {path.name for path in (out / "uploads").iterdir() if not path.name.startswith("bad-")}
    turned = set()
    for name in names:
        for folder, side in ("large", 480), ("medium", 240), ("small", 96):
            with Image.open(out / folder / f"{name}.jpg") as picture:
                picture.load()
                assert max(picture.size) <= side
                exif = picture.getexif()
                assert ExifTags.IFD.GPSInfo not in exif and ExifTags.Base.Orientation not in exif
        with Image.open(out / "uploads" / name) as upload:
            orientation = upload.getexif().get(ExifTags.Base.Orientation)
            placed = ExifTags.IFD.GPSInfo in upload.getexif()
        if orientation:
            assert placed and exif[ExifTags.Base.Model]
            turned.add(orientation)
            with Image.open(ROOT / "examples/demo/photos" / f"{name.rpartition('-')[0]}.jpg") as photograph:
                photograph = photograph.convert("RGB")
                photograph.thumbnail((96, 96))
            with Image.open(out / "small" / f"{name}.jpg") as picture:
                assert picture.size == photograph.size
                difference = ImageStat.Stat(ImageChops.difference(photograph, picture.convert("RGB"))).mean
                assert max(difference) < 12, name
    assert turned == set(range(1, 9))


@pytest.mark.slow
def test_the_unit_of_the_readme_works(gm, gearmand, tmp_path):
    """Its OPTIONS and COMMAND, as contrib/systemd starts them, from another folder than the photographs'."""
    photos = tmp_path / "photos"
    for folder in "uploads", "tmp", "large", "medium", "small", "shown":
        (photos / folder).mkdir(parents=True)
    shutil.copy(PHOTOS / "photos.py", photos)
    shutil.copy(ROOT / "examples/demo/photos/cat.jpg", photos / "uploads")
    options, command = re.search(r"'OPTIONS=(.+)\\nCOMMAND=(.+)\\n'", (PHOTOS / "README").read_text()).groups()
    gm("gm-submit", "-q", "photo", input=b"cat.jpg\n")
    event, = gm("gm-work", "--until-empty", *options.split(), "photo", "--",
                *command.replace("/srv/photos", str(photos)).split()).records
    assert event["event"] == "done" and event["extra"]["width"] == 451
    assert (photos / "small/cat.jpg.jpg").is_file()


def test_misuse(gm, tmp_path):
    (tmp_path / "full/x").mkdir(parents=True)
    for args in ([tmp_path / "full"], ["a", "b"], [""], ["--nonsense"]):
        result = gm(PHOTOS / "run", *args, status=2)
        assert result.out == b"" and result.err.startswith(b"photos: ") and result.err.count(b"\n") == 1
    assert gm(PHOTOS / "run", "--help").out.startswith(b"Usage: examples/photos/run [FOLDER]\n")
