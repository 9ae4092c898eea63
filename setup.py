"""gearmang's installation: the tools, the library, the man pages, the completions."""

import re
from glob import glob
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "libgm" / "__init__.py").read_text()).group(1)
data = [(f"share/man/man{section}", sorted(glob(f"man/*.{section}"))) for section in (1, 5, 7)]
data += [("share/bash-completion/completions", sorted(glob("completions/*.bash"))),
         ("share/zsh/site-functions", sorted(glob("completions/_*"))),
         ("share/fish/vendor_completions.d", sorted(glob("completions/*.fish")))]

setup(
    name="gearmang",
    version=version,
    description="Single-purpose Unix tools for people who run Gearman",
    long_description=(here / "README").read_text(),
    license="MIT",
    python_requires=">=3.9",
    packages=["libgm"],
    scripts=sorted(glob("bin/gm-*")),
    data_files=[(folder, files) for folder, files in data if files],
    install_requires=["python3-gearman>=0.1,<0.2", "docopt>=0.6.2,<0.7", "tabulate>=0.8,<1", "tqdm>=4,<5"],
)
