"""Installs the library libgm, the tools bin/gm-*, their man pages and completions."""

import re
from glob import glob
from pathlib import Path

from setuptools import setup
from distutils.command.install_data import install_data  # setuptools brings its own distutils

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "libgm/__init__.py").read_text()).group(1)
readme = here / "README"

check = ["nagiosplugin>=1.3,<2"]
blueox = ["pyzmq>=22", "msgpack>=1,<2"]
tally = ["ddsketch>=3,<4"]
demo = ["pillow>=9"]
lint = ["ruff==0.17.6", "import-linter==2.5.2", "mypy==2.4.1; python_version >= '3.10'", "mypy==1.19.1; python_version < '3.10'"]
debian = ["nagiosplugin==1.3.2", "tabulate==0.8.9"]   # the oldest that are meant to do, which the tests run with

places = {
    **{f"share/man/man{section}": f"man/*.{section}" for section in (1, 5, 7)},
    "share/bash-completion/completions": "completions/*.bash",
    "share/zsh/site-functions": "completions/_*",
    "share/fish/vendor_completions.d": "completions/*.fish",
    "share/doc/gearmang": "README",
    **{f"share/doc/gearmang/{folder}": f"{folder}/*" for folder in
       ("contrib/collectd", "contrib/cron", "contrib/nagios", "contrib/systemd")},
}

by_name = {   # bash and fish load a file that is named like the tool
    "share/bash-completion/completions/{}": '. "${BASH_SOURCE[0]%/*}/gearmang.bash"\n',
    "share/fish/vendor_completions.d/{}.fish": "source (status dirname)/gearmang.fish\n",
}


class Data(install_data):
    def run(self):
        super().run()
        for tool in glob("bin/gm-*"):
            for place, text in by_name.items():
                path = Path(self.install_dir, place.format(Path(tool).name))
                path.write_text(text)
                self.outfiles.append(str(path))


setup(
    name="gearmang",
    version=version,
    description="Unix tools for Gearman: work, retry, quarantine, look, fix, requeue",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/plain",
    author="The gearmang authors",
    license="MIT",
    python_requires=">=3.9",
    packages=["libgm", *sorted(str(Path(room).parent) for room in glob("libgm/*/__init__.py"))],
    scripts=sorted(glob("bin/gm-*")),
    data_files=[(place, sorted(glob(files))) for place, files in places.items() if glob(files)],
    # python3-gearman: libgm/gearman replaces parts of 0.1 by their names; the others: below their next incompatible version
    install_requires=["python3-gearman==0.1.*", "docopt>=0.6.2,<0.7", "tabulate>=0.8,<1", "tqdm>=4,<5"],
    extras_require={
        "check": check,
        "blueox": blueox,
        "tally": tally,
        "demo": demo,
        "examples": demo + tally,
        "bench": ["huey>=2.5"],
        "lint": lint,
        "test": ["pytest>=7", "pytest-xdist>=3", "pytest-timeout>=2", "hypothesis>=6", "prometheus-client>=0.20",
                 "numpy>=1.24", "trustme>=1"] + debian + lint + check + blueox + tally + demo,
    },
    cmdclass={"install_data": Data},
    zip_safe=False,
)
