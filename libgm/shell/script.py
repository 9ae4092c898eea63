"""The scripts that pip installs: each runs the tool of its name.

pip writes the script of an entry point so that it starts from any folder, also from one with a blank in its name. A copy
of bin/gm-X with its interpreter in the first line does not.
"""

from __future__ import annotations

import os
from functools import partial

ROOM = os.path.dirname(os.path.dirname(__file__))   # libgm


def __getattr__(name: str):
    """The entry point gm_x, which runs the tool gm-x. Raises AttributeError."""
    if not name.startswith("gm_"):
        raise AttributeError(name)
    return partial(execute, name.replace("_", "-"))


def execute(tool: str) -> None:
    """Run bin/TOOL as the main program: the copy in an installed libgm, or the checkout's beside libgm."""
    path = os.path.join(ROOM, "bin", tool)
    if not os.path.exists(path):
        path = os.path.join(os.path.dirname(ROOM), "bin", tool)
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, {"__name__": "__main__", "__file__": path})
