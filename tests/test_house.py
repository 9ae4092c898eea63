"""The house: the direction of imports, sizes, and what the sources may cite. make lint checks the rest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

MODULES = sorted(ROOT.glob("libgm/**/*.py"))
LONGEST, ALL = 350, 13_180   # lines of a module, of libgm
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"
# Folders with sources of ours; what is built or printed into them is not.
SOURCES = [path for folder in ("bench", "bin", "completions", "contrib", "examples", "libgm", "man", "tests")
           for path in sorted((ROOT / folder).rglob("*"))
           if path.is_file() and not {"out", "__pycache__", "photos"} & set(path.relative_to(ROOT).parts[:-1])]


def lines(path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def copy(tmp_path):
    """A copy of libgm, and of the contracts of its imports."""
    shutil.copytree(ROOT / "libgm", tmp_path / "libgm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", LINT_IMPORTS, "--no-cache"], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "COLUMNS": "200"})


def test_imports_keep_their_direction(copy):
    done = lint_imports(copy)
    assert done.returncode == 0 and " 0 broken" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module, imported", [
    ("errors", "shell.messages"), ("shell/messages", "quarantine.file"), ("quarantine/file", "gearman.address"),
    ("gearman/address", "quarantine.file"), ("gearman/address", "shell.options"), ("quarantine/audit", "shell.table"),
    ("quarantine/file", "worker.verdict"), ("worker/verdict", "tools.status"), ("python", "quarantine.file")])
def test_an_import_against_the_direction_is_found(copy, module, imported):
    path = copy / f"libgm/{module}.py"
    path.write_text(path.read_text(encoding="utf-8") + f"\n\ndef late():\n    import libgm.{imported}\n", encoding="utf-8")
    done = lint_imports(copy)
    assert done.returncode == 1 and f"libgm.{module.replace('/', '.')} -> libgm.{imported}" in done.stdout, done.stdout


@pytest.mark.slow
def test_a_module_that_has_no_place_is_found(copy):
    (copy / "libgm/place.py").touch()
    done = lint_imports(copy)
    assert done.returncode == 1 and "libgm.place" in done.stdout, done.stdout


def test_modules_are_short():
    long = {str(path.relative_to(ROOT)): len(lines(path)) for path in MODULES if len(lines(path)) > LONGEST}
    assert not long, f"over {LONGEST} lines"


def test_libgm_is_small():
    assert sum(len(lines(path)) for path in MODULES) <= ALL


def test_packages_start_for_nothing():
    packages = [path for path in MODULES if path.name == "__init__.py" and path.parent.name != "libgm"]
    assert len(packages) == 5 and [path for path in packages if path.read_bytes()] == []


def test_every_python_source_is_linted():
    """Programs have no suffix: pyproject.toml names them."""
    linted = subprocess.run([sys.executable, "-m", "ruff", "check", "--show-files", "--no-cache"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout.splitlines()
    programs = [path for path in SOURCES if re.match(rb"#!.*python", path.read_bytes()[:80])]
    assert len(programs) > 20 and {str(path.resolve()) for path in programs} <= set(linted)


def test_rules_are_cited_by_the_page_that_holds_them():
    """A source that cites rule 6 names gm-delivery(7), which is in the repository; a DESIGN is not."""
    found = []
    for path in SOURCES:
        text = "" if path.name in ("test_house.py", "gm-delivery.7") else path.read_bytes().decode("utf-8", "replace")
        for cited in re.finditer(r"\bDESIGN\b|\b[Rr]ules? \d", text):
            if cited[0] == "DESIGN" or "gm-delivery" not in text:
                found.append(f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, cited.start()) + 1}: {cited[0]}")
    assert not found, "\n".join(found)
