"""What is said twice is said the same: usage texts, man pages, completions, README, gearmang(7), setup.py, code.

Each failure begins with the file to edit.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from libgm import job
from libgm.quarantine import jobs
from libgm.shell import options

TOOLS = sorted(path.name for path in ROOT.glob("bin/gm-*"))
PAGES = {page.name: page.read_text("utf-8") for page in sorted((ROOT / "man").glob("*.[157]"))}
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"]


def usage(tool: str) -> str:
    return re.search(r'"""(.*?)"""', (ROOT / "bin" / tool).read_text("utf-8"), re.S)[1]


def page(name: str) -> str:
    """The source of a man page."""
    assert name in PAGES, f"man/{name}: there is none"
    return PAGES[name]


def section(text: str, name: str) -> str:
    """The source of a section, or subsection, of a page."""
    found = re.search(rf"^\.S[hs] {name}\n(.*?)(?=^\.Sh |\Z)", text, re.S | re.M)
    return found[1] if found else ""


def same(found, wanted, file: str, what: str) -> None:
    """found is what file says, wanted what it should say."""
    found, wanted = set(found), set(wanted)
    assert not wanted - found, f"{file}: {what} missing: {', '.join(sorted(wanted - found))}"
    assert not found - wanted, f"{file}: {what} that there are not: {', '.join(sorted(found - wanted))}"


def usage_options(tool: str) -> set[str]:
    """Each option as typed, with its placeholder: -s=LIST, --server=LIST."""
    found = set()
    for line in re.findall(r"^ +(-\S.*?)(?:  .*)?$", usage(tool), re.M):
        value = line.partition("=")[1] + line.partition("=")[2]
        found |= {name.partition("=")[0] + value for name in line.replace(",", " ").split()}
    return found


@pytest.mark.parametrize("tool", TOOLS)
def test_the_usage_is_read_as_the_tool_reads_it(tool):
    assert {name.partition("=")[0]: "=" in name for name in usage_options(tool)} == \
        {name: takes for name, (_, takes) in options.option_table(usage(tool)).items()}


@pytest.mark.parametrize("tool", TOOLS)
def test_options_of_the_page(tool):
    text = section(page(tool + ".1"), "OPTIONS")
    found = set()
    for line in re.findall(r"^\.It (Fl .*)$", text, re.M):
        line, _, value = line.partition(" Ns = Ns Ar ")
        found |= {"-" + name.removeprefix("Fl ") + (f"={value}" if value else "") for name in line.split(" , ")}
    same(found, usage_options(tool), f"man/{tool}.1", "OPTIONS")


@pytest.mark.parametrize("tool", TOOLS)
def test_defaults_of_the_page(tool):
    text = section(page(tool + ".1"), "OPTIONS")
    for option in re.split(r"\n(?= +-)", usage(tool))[1:]:
        name, default = re.search(r"--[\w-]+", option)[0], re.search(r"\[default: (.*?)\]", option)
        if default is None:
            continue
        found = re.search(rf"^\.It Fl .*-{name[2:]} .*\n((?:(?!\.It ).*\n)*)", text, re.M)
        assert found and re.search(rf"(?<!\w){re.escape(default[1])}(?!\w)", found[1]), \
            f"man/{tool}.1: {name}: that the default is {default[1]} is missing"


def bash_options(tool: str, text: str) -> set[str]:
    block = re.search(rf"^        {tool}\)\n(.*?);;$", text, re.S | re.M)
    assert block, f"completions/gearmang.bash: no {tool}: run completions/generate"
    flags, valued = (re.search(rf"{name}='(.*?)'", block[1]) for name in ("flags", "valued"))
    return set(flags[1].split()) | {name + "=" for name in re.findall(r" (-[\w-]+):", valued[1] if valued else "")}


def zsh_options(tool: str, text: str) -> set[str]:
    block = re.search(rf"^    {tool}\)\n(.*?);;$", text, re.S | re.M)
    assert block, f"completions/_gearmang: no {tool}: run completions/generate"
    return {name + ("=" if mark else "") for name, mark in re.findall(r"^ +'\(.*?\)'(-[\w-]*\w)([=+]?)'\[", block[1], re.M)}


def fish_options(tool: str, text: str) -> set[str]:
    found = set()
    for line in re.findall(rf"^complete -c {tool} (-[sl] .*) -d '", text, re.M):
        mark = "=" if re.search(r" -[xr]( |$)", line) else ""
        found |= {"-" * (1 + (kind == "l")) + name + mark for kind, name in re.findall(r"-([sl]) (\S+)", line)}
    return found


@pytest.mark.parametrize("file, read", [("gearmang.bash", bash_options), ("_gearmang", zsh_options),
                                        ("gearmang.fish", fish_options)], ids=["bash", "zsh", "fish"])
def test_options_of_the_completions(file, read):
    text = (ROOT / "completions" / file).read_text("utf-8")
    for tool in TOOLS:
        wanted = {re.sub("=.*", "=", name) for name in usage_options(tool)}
        same(read(tool, text), wanted, f"completions/{file} (run completions/generate)", f"options of {tool}")


@pytest.mark.parametrize("tool", TOOLS)
def test_the_page_says_what_the_tool_says_of_itself(tool):
    text, doc = page(tool + ".1"), usage(tool)
    line = doc.split("\n")[0].rstrip(".")
    assert f".Nd {line[0].lower()}{line[1:]}\n" in text or f".Nd {line}\n" in text, \
        f"man/{tool}.1: its .Nd is not the first line of the usage: {line}"
    placeholders = re.findall(r"\b[A-Z]{2,}(?:-[A-Z]+)*\b", doc.partition("Usage:")[2].partition("\n")[0])
    same(re.findall(r"\b[A-Z]{2,}(?:-[A-Z]+)*\b", section(text, "SYNOPSIS")), placeholders, f"man/{tool}.1",
         "operands in the SYNOPSIS")


@pytest.mark.parametrize("tool", TOOLS)
def test_sections_of_the_page(tool):
    there = [name for name in re.findall(r"^\.Sh (.*)$", page(tool + ".1"), re.M) if name in SECTIONS]
    assert there == SECTIONS, f"man/{tool}.1: its sections are {', '.join(there)}, not {', '.join(SECTIONS)}"


def test_tests_that_gm_delivery_7_names():
    """Each rule names tests that show it, and so does what happens when the file is replaced; they are there."""
    rules = re.split(r"^\.Ss ", page("gm-delivery.7").partition(".Sh RULES\n")[2].partition("\n.Sh ")[0], flags=re.M)[1:]
    assert [rule.split(".")[0] for rule in rules] == [str(number) for number in range(1, 11)]
    replaced = page("gm-delivery.7").partition(".Sh IF THE FILE IS REPLACED\n")[2].partition("\n.Sh ")[0]
    for rule in [*rules, replaced]:
        named = re.findall(r"^tests/(\w+\.py)::(\w+)$", rule.partition("Shown by")[2], re.M)
        assert named, f"man/gm-delivery.7: rule {rule[:20]} names no test"
        for file, test in named:
            path = ROOT / "tests" / file
            assert path.exists() and f"def {test}(" in path.read_text("utf-8"), f"man/gm-delivery.7: no {file}::{test}"


def test_lists_of_tools():
    readme = (ROOT / "README").read_text("utf-8")
    table = re.search(r"^Tools\n-+\n\n((?:    .*\n)+)", readme, re.M)
    assert table, "README: no table under the heading Tools"
    same(re.findall(r"^    (gm-\w+)", table[1], re.M), TOOLS, "README", "tools")
    same(re.findall(r"^\.It Xr (gm-\w+) 1$", section(page("gearmang.7"), "The tools"), re.M), TOOLS, "man/gearmang.7", "tools")
    for name in PAGES:
        stem, _, number = name.rpartition(".")
        assert number == "1" or f"man {stem}" in " ".join(readme.split()), f"README: man {stem} is missing"
    same({name.removesuffix(".1") for name in PAGES if name.endswith(".1")}, TOOLS, "man/", "pages")


def setup(*names: str) -> list:
    """These attributes of what setup.py sets up."""
    script = ("import json, sys; from setuptools import Distribution; from distutils.core import run_setup; "
              "made = run_setup('setup.py', stop_after='init'); "
              "print(json.dumps([getattr(made, name) for name in sys.argv[1:]]))")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"setup.py: {done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def test_what_is_installed():
    scripts, packaged, data = setup("entry_points", "package_data", "data_files")
    same({script.partition(" = ")[0] for script in scripts["console_scripts"]}, TOOLS, "setup.py", "scripts")
    same(packaged["libgm.bin"], TOOLS, "setup.py", "tools")
    files = {Path(file).name for _, files in data for file in files}
    same(files & set(PAGES), PAGES, "setup.py", "man pages")
    same(files & {"gearmang.bash", "_gearmang", "gearmang.fish"}, {"gearmang.bash", "_gearmang", "gearmang.fish"},
         "setup.py", "completions")
    wanted = {str(path.relative_to(ROOT)) for path in ROOT.glob("contrib/*/*") if path.parent.name != "debian"}
    same({file for _, files in data for file in files if file.startswith("contrib/")}, wanted, "setup.py", "contrib")


def test_dependencies():
    """HACKING gives the bounds and the reason of each; Debian's package the lower bounds of those that Debian has."""
    needed, extras = setup("install_requires", "extras_require")
    wanted = {(name, bounds, extra) for extra in ("", "check", "tally", "blueox", "demo", "bench")
              for name, bounds in (re.match(r"([\w-]+)(.*)", each).groups() for each in (extras[extra] if extra else needed))}
    table = re.search(r"^What it stands on\n-+\n\n(.*?)\n\n\n", (ROOT / "HACKING").read_text("utf-8"), re.S | re.M)
    assert table, "HACKING: no heading What it stands on"
    rows = re.findall(r"^    (\S+) +([<>=]\S+) +(?:\[(\w+)\] )?\S", table[1], re.M)

    def lines(dependencies):   # setuptools has an order of its own
        return [" ".join([name, *sorted(bounds.split(",")), extra]) for name, bounds, extra in dependencies]
    same(lines(row for row in rows if row[0] != "python3"), lines(wanted), "HACKING", "dependencies of setup.py")
    control = (ROOT / "contrib/debian/control").read_text("utf-8")
    for name, bounds, _ in wanted:
        if name not in ("python3-gearman", "ddsketch", "pillow", "huey", "rq"):
            debian = f"python3-{name.removeprefix('py')} (>= {re.search(r'>=([0-9.]+)', bounds)[1]})"
            assert debian in control, f"contrib/debian/control: {debian} is missing"


def test_cross_references():
    known = {(name.rpartition(".")[0], name.rpartition(".")[2]) for name in PAGES}
    for file, text in PAGES.items():
        for name, number in re.findall(r"\.Xr (gm-\w+|gearmang) (\d)", text):
            assert (name, number) in known, f"man/{file}: refers to {name}({number}), which there is not"


VARIABLE = r"\b(?:GM|BLUEOX|COLLECTD)_[A-Z_]*[A-Z]\b|\bXDG_STATE_HOME\b|\bNO_COLOR\b"


def test_environment_variables():
    used = {}
    for file in [*ROOT.glob("libgm/**/*.py"), *ROOT.glob("bin/gm-*")]:
        for name in re.findall(VARIABLE, file.read_text("utf-8")):
            used.setdefault(name, file.name)
    said = {}
    for file, text in PAGES.items():
        for line in re.findall(r"^\.It Ev (.*)$", text, re.M):
            for name in line.split(" , "):
                if re.fullmatch(VARIABLE, name):
                    said.setdefault(name, file)
    for name in sorted(set(said) - set(used)):
        pytest.fail(f"man/{said[name]}: ENVIRONMENT has {name}, which no code reads")
    for name in sorted(set(used) - set(said)):
        pytest.fail(f"man/: {name} of {used[name]} is under no page's ENVIRONMENT")


def test_what_gearmang_7_lists():
    same(re.findall(r"^\.It Cm (\w+)$", section(page("gearmang.7"), "THE LIFE OF A JOB"), re.M), jobs.REASONS, "man/gearmang.7",
         "reasons")


def test_fields_of_the_record(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"x\n")
    gm("gm-work", "-q", "--until-empty", "--tries=1", "f", "false")
    [record] = gm("gm-dead").records
    said = [name for line in re.findall(r"^\.It Li (.*)$", page("gm-job.5"), re.M) for name in line.split(" , ")]
    same(set(said) & set(record), record, "man/gm-job.5", "fields")
    assert set(job.PRIORITIES) <= set(re.findall(r"^\.Cm (\w+)", page("gm-job.5"), re.M)), "man/gm-job.5: priorities"
