"""The manual as HTML: every page is there, and every link leads somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from conftest import ROOT


class Page(HTMLParser):
    """The ids and links of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if "id" in found:
            self.ids.add(found["id"])
        self.links += [found["href"]] if "href" in found else []


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages by name, made anew."""
    if not shutil.which("mandoc"):
        pytest.fail("mandoc is not installed (Debian: apt-get install mandoc)", pytrace=False)
    folder = tmp_path_factory.mktemp("html")
    subprocess.run([ROOT / "man/make-html", folder], check=True)
    assert (folder / "style.css").exists()
    return {path.name: Page(path.read_text("utf-8")) for path in folder.glob("*.html")}


def test_no_link_is_broken(pages):
    broken = []
    for name, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if "://" in link or target == "style.css":
                continue
            other = pages.get(target or name)
            if other is None or (anchor and anchor not in other.ids):
                broken.append(f"{name}: {link}")
    assert broken == []


def test_the_index_has_every_page(pages):
    sources = {f"{path.name}.html" for path in (ROOT / "man").glob("*.[157]")}
    assert sources == set(pages["index.html"].links) - {"style.css"} == set(pages) - {"index.html"}


def test_our_pages_are_linked_and_others_are_debian_s(pages):
    links = {link for page in pages.values() for link in page.links if "://" in link}
    outside = {re.sub(r".*/", "", link) for link in links if link.startswith("https://manpages.debian.org/")}
    assert "jq.1" in outside and not [name for name in outside if name.startswith(("gm-", "gearmang"))]


def test_without_mandoc_it_says_so(tmp_path):
    (tmp_path / "env").symlink_to(shutil.which("env"))
    (tmp_path / "python3").symlink_to(shutil.which("python3"))
    result = subprocess.run([ROOT / "man/make-html", tmp_path / "out"], env={"PATH": str(tmp_path)},
                            capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "") and "mandoc: not found" in result.stderr
