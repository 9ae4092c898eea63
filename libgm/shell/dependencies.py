"""The libraries of others that the tools import: how to install one that is missing."""

from __future__ import annotations

import os
import shlex
import sys

EXTRAS = {"nagiosplugin": "check", "ddsketch": "tally", "zmq": "blueox", "msgpack": "blueox"}
PYPI = {"zmq": "pyzmq", "python3_gearman": "python3-gearman"}   # where that is not the module's name
DEBIAN = {"docopt", "tabulate", "tqdm", "nagiosplugin", "zmq", "msgpack"}   # as python3-NAME


def advice(module: str) -> str:
    """The command that installs a module for the Python that runs this tool."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    if os.path.exists(os.path.join(root, "setup.py")):   # a checkout
        command = f"cd {shlex.quote(root)} && make venv && . .venv/bin/activate"
        return command + (f" && pip install -e '.[{EXTRAS[module]}]'" if module in EXTRAS else "")
    if sys.prefix == "/usr":   # the system's Python, into which pip installs nothing
        return f"apt-get install python3-{module}" if module in DEBIAN else \
            "Debian has no package of it: install gearmang into a virtual environment"
    return f"{shlex.quote(sys.executable)} -m pip install {PYPI.get(module, module)}"
