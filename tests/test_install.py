"""Installation: pip install, pip install -e, make install, make deb, what comes with them, and on which Pythons."""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
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
    unwanted = shutil.ignore_patterns(".git", ".venv", ".peers", ".hypothesis", "build", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=unwanted)
    return copy


def pip(venv: Path, *args, **options) -> None:
    """pip install into an environment, a new one where there is none, with the machine's own settings of pip."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    make = [] if venv.exists() else [[sys.executable, "-m", "venv", venv]]
    for command in [*make, [venv / "bin/python3", "-m", "pip", "install", "-q", *args]]:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment,
                              cwd=venv.parent, **options)
        assert done.returncode == 0, done.stderr.decode()


def there(folder: Path) -> set[Path]:
    """Every file and folder in it."""
    return set(folder.rglob("*"))


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
    """Twice from one checkout, in which nothing is built, into environments of which one has a blank in its path."""
    stale = checkout / "build/lib/libgm/left_over.py"
    stale.parent.mkdir(parents=True)
    stale.touch()
    before = there(checkout)
    for venv in (tmp_path / "venv", tmp_path / "another venv"):
        pip(venv, str(checkout))
        check_tools(gm, venv)
        check_share(gm, venv / "share")
        assert list(venv.rglob("gm-dead.1")) and not list(venv.rglob("left_over.py"))
    assert there(checkout) == before
    shutil.rmtree(checkout)
    check_tools(gm, venv)
    assert advice(gm, venv / "bin/gm-submit", tmp_path / "without", "python3_gearman") == \
        f"'{venv}/bin/python3' -m pip install python3-gearman"


def advice(gm, tool: Path, folder: Path, module: str, library: Path | None = None) -> str:
    """What a tool says where a module cannot be imported: a new folder has one that raises, library the others."""
    folder.mkdir()
    (folder / f"{module}.py").write_text(f"raise ModuleNotFoundError(name={module!r})\n")
    env = {"PYTHONPATH": ":".join(str(path) for path in (folder, library) if path), "PATH": "/usr/bin:/bin"}
    result = gm(tool, *(["f"] if tool.name == "gm-submit" else []), env=env, input=b"x\n", status=1)
    return result.err.decode().strip().partition(f"{tool.name}: cannot import {module}: ")[2]


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
    venv = tmp_path / "a venv"
    pip(venv, "-e", str(checkout))
    check_tools(gm, venv)
    (checkout / "libgm/__init__.py").write_text('__version__ = "9.9.9"\n')
    assert gm(venv / "bin/gm-dead", "--version").out == b"gm-dead 9.9.9\n"


@pytest.mark.slow
def test_make_venv_in_a_path_with_a_blank(gm, checkout, tmp_path):
    """As README says: make venv && . .venv/bin/activate."""
    copy = checkout.rename(tmp_path / "a checkout")
    gm("make", "-s", "venv", cwd=copy, env={"HOME": os.environ.get("HOME")}, timeout=170)   # whose pip is set up
    check_tools(gm, copy / ".venv")
    shown = gm("bash", "-c", ". .venv/bin/activate && gm-dead --version && gm-submit f </dev/null", cwd=copy)
    assert shown.out.startswith(b"gm-dead ")


@pytest.fixture
def stranger():
    """Runs a command as somebody who is not root and has no rights over other users' files."""
    if os.geteuid():
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]


@pytest.fixture
def public(checkout):
    """A checkout that everybody can read, which tmp_path is not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield Path(shutil.copytree(checkout, folder / "checkout", symlinks=True))
    shutil.rmtree(folder)


def refused(gm, *command, **options) -> str:
    """What a command that fails says, in one line; make itself adds others."""
    result = gm(*command, status=None, **options)
    said = [line for line in result.err.decode().splitlines() if not re.match(r"make(\[\d+\])?: ", line)]
    assert result.status and result.out == b"" and len(said) == 1, result
    return said[0]


def test_a_checkout_that_cannot_be_written_to_is_told(gm, public, stranger):
    before = there(public)
    public.chmod(0o555)
    said = refused(gm, *stranger, "make", "-s", "venv", cwd=public)
    assert said == f"setup: {public}: cannot write here: copy the checkout and run make in the copy"
    public.chmod(0o755)
    assert there(public) == before


@pytest.mark.parametrize("target", ["venv", "demo", "check", "deb"])
def test_a_folder_for_temporary_files_that_is_not_there_is_told(gm, checkout, target):
    said = refused(gm, "make", "-s", target, cwd=checkout, env={"TMPDIR": "/nowhere"})
    assert said == "setup: /nowhere: cannot make temporary files here: set TMPDIR to another folder"


def test_a_folder_for_temporary_files_without_programs_is_told(gm, checkout, tmp_path):
    """One that is mounted noexec: where the machine has none, it takes the right to make mounts, or user namespaces."""
    where = next((folder for folder in (Path("/dev/shm"), Path("/run/lock")) if os.access(folder, os.W_OK)
                  and os.statvfs(folder).f_flag & os.ST_NOEXEC), None)
    command = ["make", "-s", "venv"]
    if where is None:
        where = tmp_path / "temporary"
        where.mkdir()
        alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
        command = [*alone, "sh", "-c", 'mount -t tmpfs -o noexec none "$TMPDIR" && exec "$@"', "sh", *command]
    said = refused(gm, *command, cwd=checkout, env={"TMPDIR": str(where)})
    assert said == f"setup: {where}: programs cannot be run here (mounted noexec?): set TMPDIR to another folder"


def test_root_leaves_nothing_of_its_own_in_another_users_checkout(gm, public):
    if os.geteuid() == 0:
        for path in [public, *there(public)]:
            os.chown(path, 65534, 65534, follow_symlinks=False)
    gm(public / ".ci/as-owner", "mkdir", "made", cwd=public)
    assert (public / "made").stat().st_uid == public.stat().st_uid
    assert gm(public / ".ci/as-owner", "sh", "-c", "exit 7", cwd=public, status=7).err == b""


def test_without_python3_venv_it_alone_is_asked_for(gm, checkout, tmp_path):
    """Not what is optional; and no target is named but the one that was asked for."""
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")   # cannot import ensurepip
    python.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    (tmp_path / "apt-get").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "apt-get").chmod(0o755)
    for target in ("venv", "demo"):
        said = gm("make", "-s", target, cwd=checkout, env=environment, status=2).err.decode().splitlines()
        assert "setup: not here, and needed: apt-get install python3-venv" in said


@pytest.mark.slow
def test_tools_run_from_a_checkout(gm, tmp_path):
    """By their path, and through a symbolic link, with no installation."""
    for tool in TOOLS:
        assert (ROOT / "bin" / tool).stat().st_mode & 0o111 == 0o111
        (tmp_path / tool).symlink_to(ROOT / "bin" / tool)
        for path in (ROOT / "bin" / tool, tmp_path / tool):
            assert b"Usage:" in gm(path, "--help").out


@pytest.mark.slow(10)
def test_make_install_and_uninstall(gm, checkout, tmp_path):
    """Also where the umask is 077: others can use it."""
    place = tmp_path / "a place"
    for where, prefix in ((["DESTDIR=" + str(place), "PREFIX=/usr"], place / "usr"),
                          (["PREFIX=" + str(place)], place)):
        shutil.rmtree(place, ignore_errors=True)
        script = 'umask 077 && exec make -s install "$@"'
        gm("sh", "-c", script, "sh", f"PYTHON={sys.executable}", *where, cwd=checkout)
        assert [path for path in [place, *there(place)] if path.stat().st_mode & 0o044 != 0o044] == []
        for tool in TOOLS:
            result = gm(prefix / "bin" / tool, "--help", env={"PATH": "/nowhere"})
            assert b"Usage: " + tool.encode() in result.out
        check_share(gm, prefix / "share")
        assert {"README", "HACKING", "NEWS", "LICENSE"} <= {path.name for path in (prefix / "share/doc/gearmang").iterdir()}
        gm("make", "-s", "-C", checkout, "uninstall", *where)
        assert [path for path in place.rglob("*") if not path.is_dir()] == []


def test_make_install_is_refused_where_the_tools_would_not_start(gm, checkout, tmp_path):
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")   # cannot import docopt
    python.chmod(0o755)
    place = tmp_path / "place"
    said = refused(gm, "make", "-s", "install", f"PREFIX={place}", cwd=checkout, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert said.startswith("make install: python3: cannot import docopt, python3_gearman, tabulate and tqdm: give PYTHON=")
    for name in ("python3", "/a b/python3"):
        said = refused(gm, "make", "-s", "install", f"PREFIX={place}", f"PYTHON={name}", cwd=checkout)
        assert said.startswith(f"make install: PYTHON={name}: give an absolute path without blanks")
    assert not place.exists()


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
    assert gm("lintian", "--fail-on=error,warning", package).out == b""
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
    for tool, module, wanted in (("gm-dead", "docopt", "apt-get install python3-docopt"),
                                 ("gm-blueox", "msgpack", "apt-get install python3-msgpack"),
                                 ("gm-tally", "ddsketch", "Debian has no package of it: install gearmang into a virtual "
                                                          "environment")):
        found = advice(gm, root / "usr/bin" / tool, tmp_path / f"without {module}", module, debian)
        assert found == wanted
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


def is_program(path: Path) -> bool:
    """Whether it is one itself, not a script that looks for one."""
    with open(path, "rb") as file:
        return file.read(2) != b"#!"


def pythons() -> list[str]:
    """Every Python from 3.9 on this machine: those on PATH, those of pyenv, and PyPy."""
    folders = os.environ.get("PATH", "").split(":") + ["/usr/bin", "/usr/local/bin"] + \
        glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin"))
    found, seen = {}, set()
    for folder in dict.fromkeys(folders):
        for path in glob.glob(f"{folder}/python3*") + glob.glob(f"{folder}/pypy3*"):
            real = Path(path).resolve()
            if re.fullmatch(r"(python3|pypy3)(\.\d+)?", os.path.basename(path)) and real not in seen and is_program(real):
                seen.add(real)
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
        env = {"PYTHONPATH": str(library), "PYTHONWARNINGS": "error::SyntaxWarning"}
        return gm(python, ROOT / "bin" / tool, *args, env=env, **options)
    run("gm-submit", "f", input=b"h\xffllo\n")
    failed = run("gm-work", "--until-empty", "--delay=0", "--tries=2", "f", "--", "sh", "-c", "echo why >&2; exit 3")
    assert [event["event"] for event in failed.records] == ["retry", "dead"]
    [record] = run("gm-dead").records
    assert (record["error"], record["data_b64"]) == ("why", "aP9sbG8=")
    assert b"why" in run("gm-dead", "--table").out
    assert run("gm-requeue", "--ids", input=b"1\n").records[0]["id"] == 1
    [event] = run("gm-work", "--until-empty", "f", "--", "cat").records
    assert event["event"] == "done"
    (tmp_path / "upper.py").write_text("def upper(job):\n    return job.data.upper()\n")
    run("gm-submit", "-q", "f", input=b"a\nb\n")
    [*events] = run("gm-work", "--pipe", "--until-empty", "f", "--", python, ROOT / "bin/gm-python", "upper:upper").records
    assert [event["event"] for event in events] == ["done", "done"]
    assert run("gm-status").records[0]["dead"] == 0
    assert run("gm-dead").out == b""
