"""Installation: pip install, pip install -e, and what comes with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

TOOLS = sorted(path.name for path in ROOT.glob("bin/gm-*"))
COMPLETIONS = {
    "completions/gearmang.bash": "share/bash-completion/completions",
    "completions/_gearmang": "share/zsh/site-functions",
    "completions/gearmang.fish": "share/fish/vendor_completions.d",
}


@pytest.fixture
def checkout(tmp_path):
    """A copy to build in, so that nothing is left in the real one."""
    copy = tmp_path / "checkout"
    unwanted = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=unwanted)
    return copy


def install(venv: Path, *args) -> None:
    """pip install into a new environment, with the machine's own settings of pip."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    pip = [venv / "bin/python3", "-m", "pip", "install", "-q", *args]
    for command in ([sys.executable, "-m", "venv", venv], pip):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment,
                              cwd=venv.parent)
        assert done.returncode == 0, done.stderr.decode()


def check_tools(gm, venv: Path) -> None:
    """Every tool starts from elsewhere than the checkout."""
    env = {"PATH": "/usr/bin:/bin"}
    for tool in TOOLS:
        assert b"Usage: " + tool.encode() in gm(venv / "bin" / tool, "--help", env=env).out
        assert gm(venv / "bin" / tool, "--version", env=env).out.startswith(tool.encode() + b" ")
    result = gm(venv / "bin/gm-submit", "f", input=b"x\n", env=env, status=111)
    assert result.err.startswith(b"gm-submit: ") and b"cannot import" not in result.err


@pytest.mark.slow
def test_pip_install(gm, checkout, tmp_path):
    venv = tmp_path / "venv"
    install(venv, str(checkout))
    shutil.rmtree(checkout)
    check_tools(gm, venv)
    for page in ROOT.glob("man/*.[157]"):
        assert (venv / f"share/man/man{page.suffix[1:]}" / page.name).read_bytes() == page.read_bytes()
    for file, place in COMPLETIONS.items():
        if (ROOT / file).exists():
            assert (venv / place / Path(file).name).exists()


@pytest.mark.slow
def test_pip_install_editable(gm, checkout, tmp_path):
    venv = tmp_path / "venv"
    install(venv, "-e", str(checkout))
    check_tools(gm, venv)
    (checkout / "libgm/__init__.py").write_text('__version__ = "9.9.9"\n')
    assert gm(venv / "bin/gm-dead", "--version").out == b"gm-dead 9.9.9\n"


def test_tools_run_from_a_checkout(gm, tmp_path):
    """By their path, and through a symbolic link, with no installation."""
    for tool in TOOLS:
        assert (ROOT / "bin" / tool).stat().st_mode & 0o111 == 0o111
        (tmp_path / tool).symlink_to(ROOT / "bin" / tool)
        for path in (ROOT / "bin" / tool, tmp_path / tool):
            assert b"Usage:" in gm(path, "--help").out
