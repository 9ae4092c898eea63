"""Files that a stage leaves behind, and the jobs that it passes on: both are safe before the next step.

A file is named by its content or by the message it belongs to, and is there whole or not at all; to keep it twice is
to keep it once. So every stage may run again, and two may run at once.
"""

from __future__ import annotations

import json
import os
import subprocess
from hashlib import sha256

BATCH = 100   # jobs on their way: their records must fit the pipe that brings them back
_submit: subprocess.Popen | None = None


class Broken(Exception):
    """The jobs may not have been taken: the stage must run again."""


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def keep(path: str, data: bytes) -> None:
    """Make the file path (folder/name) with this content, durably, unless it is there."""
    folder, name = os.path.split(path)
    if not os.path.exists(path):
        made = os.path.join("tmp", f"{name}.{os.getpid()}")
        with open(made, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(made, path)
    there = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(there)
    finally:
        os.close(there)


def load(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def pass_on(function: str, jobs: list[dict]) -> None:
    """Submit the jobs and wait until the server has them. Raises Broken.

    One gm-submit stays beside this process, for as long as it lives: a line in, a line back for each job that is safe.
    The unique is made from the job, so that a job that is there already is not there twice.
    """
    global _submit
    if _submit is None or _submit.poll() is not None:
        _submit = subprocess.Popen(["gm-submit", "--strict"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        for start in range(0, len(jobs), BATCH):
            lines = []
            for job in jobs[start:start + BATCH]:
                data = json.dumps(job, sort_keys=True)
                lines.append(json.dumps({"function": function, "unique": digest(data.encode())[:40], "data": data}))
            _submit.stdin.write("\n".join(lines).encode() + b"\n")
            _submit.stdin.flush()
            for _ in lines:
                if not _submit.stdout.readline():
                    raise Broken(f"gm-submit ended with status {_submit.wait()}")
    except BrokenPipeError:
        raise Broken(f"gm-submit ended with status {_submit.wait()}") from None
