"""Installation: pip install, pip install -e, make install, make deb, what comes with them, and on which Pythons."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TOOLS = sorted(path.name for path in ROOT.glob("bin/gm-*"))
COMPLETIONS = ["share/bash-completion/completions/gearmang.bash", "share/zsh/site-functions/_gearmang",
               "share/fish/vendor_completions.d/gearmang.fish"]
NEEDED = ("docopt", "tabulate", "tqdm")   # all pure Python, and so is python3_gearman: any interpreter can have ours


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


@pytest.mark.slow(20)
def test_pip_install(gm, checkout, tmp_path):
    venv = tmp_path / "venv"
    install(venv, str(checkout))
    shutil.rmtree(checkout)
    check_tools(gm, venv)
    check_share(gm, venv / "share")


def check_share(gm, share: Path) -> None:
    """Man pages and completions are where man and the shells look."""
    for page in ROOT.glob("man/*.[157]"):
        assert (share / f"man/man{page.suffix[1:]}" / page.name).read_bytes() == page.read_bytes()
    for file in COMPLETIONS:
        assert (share.parent / file).read_bytes() == (ROOT / "completions" / Path(file).name).read_bytes()
    for tool in TOOLS:
        script = "source \"$1\" && complete -p " + tool
        assert gm("bash", "--norc", "-c", script, "bash", share / "bash-completion/completions" / tool).out
        script = f"set fish_complete_path $argv[1]; complete -C '{tool} --versio'"
        assert gm("fish", "--no-config", "-c", script, share / "fish/vendor_completions.d").out.startswith(b"--version")


@pytest.mark.slow(20)
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


@pytest.mark.slow(10)
def test_make_install_and_uninstall(gm, checkout, tmp_path):
    place = tmp_path / "place"
    for where, prefix in ((["DESTDIR=" + str(place), "PREFIX=/usr"], place / "usr"),
                          (["PREFIX=" + str(place)], place)):
        gm("make", "-s", "-C", checkout, "install", f"PYTHON={sys.executable}", *where)
        for tool in TOOLS:
            result = gm(prefix / "bin" / tool, "--help", env={"PATH": "/nowhere"})
            assert b"Usage: " + tool.encode() in result.out
        check_share(gm, prefix / "share")
        gm("make", "-s", "-C", checkout, "uninstall", *where)
        assert [path for path in place.rglob("*") if not path.is_dir()] == []


def lend(folder: Path, *names) -> Path:
    """A folder of libraries with those that these tests run with."""
    folder.mkdir()
    for name in names:
        path = Path(importlib.util.find_spec(name).origin)
        path = path.parent if path.name == "__init__.py" else path
        (folder / path.name).symlink_to(path)
    return folder


def without_users(root: Path, *args) -> list:
    """dpkg on a system that is a folder, by anybody: nothing is a user's, and its scripts run outside of it."""
    return ["dpkg", f"--root={root}", "--force-not-root", "--force-script-chrootless", "--force-depends",
            f"--log={root}/log", *args]


@pytest.mark.slow
def test_debian_package(gm, checkout, tmp_path):
    """It is built, installed, runs with what Debian has, and is removed: all of it, but for jobs."""
    [package] = gm(checkout / "contrib/debian/make-deb", tmp_path).out.decode().split()
    fields = dict(re.findall(r"^(\S+): (.*)$", gm("dpkg-deb", "-f", package).out.decode(), re.M))
    assert {"python3-docopt", "python3-tabulate", "python3-tqdm"} <= set(re.split(r",? ", fields["Depends"]))
    root = tmp_path / "root"
    (root / "var/lib/dpkg/updates").mkdir(parents=True)
    for name in ("status", "available", "diversions", "triggers"):
        (root / "var/lib/dpkg" / name).touch() if name != "triggers" else (root / "var/lib/dpkg" / name).mkdir()
    before = [path for path in root.rglob("*") if "dpkg" not in str(path)]
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    gm(*without_users(root, "-i", package), env=environment)
    debian = lend(tmp_path / "debian", *NEEDED)   # what Debian's packages would bring
    for tool in TOOLS:
        result = gm(root / "usr/bin" / tool, "--version", env={"PYTHONPATH": str(debian), **environment})
        assert result.out.startswith(tool.encode() + b" ")
        assert (root / "usr/lib/gearmang" / tool).read_text().startswith("#!/usr/bin/python3\n")
        page = root / f"usr/share/man/man1/{tool}.1.gz"
        assert page.exists() == (ROOT / f"man/{tool}.1").exists()
    result = gm(root / "usr/bin/gm-submit", "f", input=b"x\n", env={"PYTHONPATH": str(debian), **environment}, status=111)
    assert b"cannot connect" in result.err   # the wire is there
    assert (root / "usr/share/zsh/vendor-completions/_gearmang").exists()
    units = {unit.name for unit in ROOT.glob("contrib/systemd/*.*er*") if unit.suffix != ".conf"}
    assert {unit.name for unit in (root / "usr/lib/systemd/system").iterdir()} == units
    for unit in (root / "usr/lib/systemd/system").iterdir():
        assert "/usr/local" not in unit.read_text()
    (root / "var/lib/gearmang/quarantine.db").touch()
    purged = gm(*without_users(root, "-P", "gearmang"), env=environment)
    assert b"is not empty, and stays" in purged.err and (root / "var/lib/gearmang/quarantine.db").exists()
    (root / "var/lib/gearmang/quarantine.db").unlink()
    gm(*without_users(root, "-i", package), env=environment)
    gm(*without_users(root, "-P", "gearmang"), env=environment)
    left = [path for path in root.rglob("*") if "dpkg" not in str(path) and path.name != "log" and not path.is_dir()]
    assert left == [path for path in before if not path.is_dir()]
    assert not (root / "var/lib/gearmang").exists() and not (root / "usr/lib/gearmang").exists()


def pythons() -> list[str]:
    """Every Python from 3.9 on this machine: those on PATH, those of pyenv, and PyPy."""
    folders = os.environ.get("PATH", "").split(":") + ["/usr/bin", "/usr/local/bin"] + \
        glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin"))
    found = {}
    for folder in dict.fromkeys(folders):
        for path in glob.glob(f"{folder}/python3*") + glob.glob(f"{folder}/pypy3*"):
            if re.fullmatch(r"(python3|pypy3)(\.\d+)?", os.path.basename(path)):
                done = subprocess.run([path, "-c", "import sys; print(sys.implementation.name, *sys.version_info[:2], "
                                       "sys.version_info >= (3, 9))"], capture_output=True, text=True)
                name, _, new = done.stdout.strip().rpartition(" ")
                if new == "True":
                    found.setdefault(name, path)
    return [found[name] for name in sorted(found)]


PYTHONS = pythons()


def test_there_is_a_pypy():
    assert any("pypy" in path for path in PYTHONS), "PyPy is not installed (Debian: apt-get install pypy3)"


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_the_loop_runs_on(gm, gearmand, tmp_path, python):
    """Submit, fail, quarantine, look, requeue, done."""
    library = lend(tmp_path / "library", *NEEDED, "python3_gearman")

    def run(tool, *args, **options):
        return gm(python, ROOT / "bin" / tool, *args, **options,
                  env={"PYTHONPATH": str(library), "PYTHONWARNINGS": "error::SyntaxWarning"})
    run("gm-submit", "f", input=b"h\xffllo\n")
    failed = run("gm-work", "--until-empty", "--delay=0", "--tries=2", "f", "--", "sh", "-c", "echo why >&2; exit 3")
    assert [event["event"] for event in failed.records] == ["retry", "dead"]
    [record] = run("gm-dead").records
    assert (record["error"], record["data_b64"]) == ("why", "aP9sbG8=")
    assert b"why" in run("gm-dead", "--table").out
    assert run("gm-requeue", input=b"1").records[0]["id"] == 1
    [event] = run("gm-work", "--until-empty", "f", "--", "cat").records
    assert event["event"] == "done"
    (tmp_path / "upper.py").write_text("def upper(job):\n    return job.data.upper()\n")
    run("gm-submit", "-q", "f", input=b"a\nb\n")
    [*events] = run("gm-work", "--pipe", "--until-empty", "f", "--", python, ROOT / "bin/gm-python", "upper:upper").records
    assert [event["event"] for event in events] == ["done", "done"]
    assert run("gm-status").records[0]["dead"] == 0
    assert run("gm-dead").out == b""
