"""Installs the library libgm, the tools bin/gm-*, their man pages and completions."""

import atexit
import re
import shutil
import tempfile
from glob import glob
from pathlib import Path

from setuptools import setup
# isort: split
from distutils.command.install_data import install_data   # setuptools brings its own distutils

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "libgm/__init__.py").read_text()).group(1)
tools = sorted(path.name for path in here.glob("bin/gm-*"))

check = ["nagiosplugin>=1.3,<2"]
blueox = ["pyzmq>=22", "msgpack>=1,<2"]
tally = ["ddsketch>=3,<4"]
demo = ["pillow>=9"]
lint = ["ruff==0.17.6", "import-linter==2.5.2", "mypy==2.4.1; python_version >= '3.10'", "mypy==1.19.1; python_version < '3.10'"]
debian = ["nagiosplugin==1.3.2", "tabulate==0.8.9"]   # the oldest that are meant to do, which the tests run with

places = {
    **{f"share/man/man{section}": [f"man/*.{section}"] for section in (1, 5, 7)},
    "share/bash-completion/completions": ["completions/*.bash"],
    "share/zsh/site-functions": ["completions/_*"],
    "share/fish/vendor_completions.d": ["completions/*.fish"],
    "share/doc/gearmang": ["README", "NEWS", "HACKING", "LICENSE"],
    **{f"share/doc/gearmang/{folder}": [f"{folder}/*"] for folder in
       ("contrib/collectd", "contrib/cron", "contrib/nagios", "contrib/systemd")},
}

by_name = {   # bash and fish load a file that is named like the tool
    "share/bash-completion/completions/{}": '. "${BASH_SOURCE[0]%/*}/gearmang.bash"\n',
    "share/fish/vendor_completions.d/{}.fish": "source (status dirname)/gearmang.fish\n",
}


class Data(install_data):
    def run(self):
        super().run()
        for tool in tools:
            for place, text in by_name.items():
                path = Path(self.install_dir, place.format(tool))
                path.write_text(text)
                self.outfiles.append(str(path))


# Nothing is built in the checkout: what an earlier build left there would be installed again, and the checkout may be
# read-only or another user's.
scratch = tempfile.mkdtemp()
atexit.register(shutil.rmtree, scratch, ignore_errors=True)

setup(
    name="gearmang",
    version=version,
    description="Unix tools for Gearman: work, retry, quarantine, look, fix, requeue",
    long_description=(here / "README").read_text(encoding="utf-8"),
    long_description_content_type="text/plain",
    author="The gearmang authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords="gearman gearmand job queue worker retry dead-letter quarantine command-line",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(9, 15)),
        "Programming Language :: Python :: Implementation :: CPython",
        "Programming Language :: Python :: Implementation :: PyPy",
        "Topic :: System :: Distributed Computing",
        "Topic :: System :: Monitoring",
        "Topic :: System :: Systems Administration",
        "Topic :: Utilities",
    ],
    python_requires=">=3.9",   # the PyPy of Debian 12; Debian 11, whose CPython is as old, is not supported
    packages=["libgm", *(f"libgm.{room.parent.name}" for room in sorted(here.glob("libgm/*/__init__.py"))), "libgm.bin"],
    package_dir={"libgm.bin": "bin"},
    package_data={"libgm.bin": tools},
    entry_points={"console_scripts": [f"{tool} = libgm.shell.script:{tool.replace('-', '_')}" for tool in tools]},
    data_files=[(place, sorted(file for files in each for file in glob(files))) for place, each in places.items()],
    # python3-gearman: libgm/gearman replaces parts of 0.1 by their names; the others: below their next incompatible version
    install_requires=["python3-gearman==0.1.*", "docopt>=0.6.2,<0.7", "tabulate>=0.8,<1", "tqdm>=4,<5"],
    extras_require={
        "all": check + blueox + tally,
        "check": check,
        "blueox": blueox,
        "tally": tally,
        "demo": demo,
        "examples": demo + tally,
        "bench": ["huey>=2.5", "rq>=2,<4"],
        "lint": lint,
        "test": ["pytest>=7", "pytest-xdist>=3", "pytest-timeout>=2", "hypothesis>=6", "prometheus-client>=0.20",
                 "numpy>=1.24", "trustme>=1", "setuptools"] + debian + lint + check + blueox + tally + demo,
    },
    # compat: pip install -e puts the checkout on the path by a line of text. Its other way is a finder, which every start of
    # Python in the environment pays for with 25 ms.
    options={"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}, "editable_wheel": {"mode": "compat"}},
    cmdclass={"install_data": Data},
    zip_safe=False,
)
