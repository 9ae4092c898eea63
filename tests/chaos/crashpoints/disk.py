"""A folder that a power cut gives back as it was last synced: preload.c keeps that beside it."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from strikes import Control


class Disk:
    """folder: its files count; beside: a folder for what was synced, the orders for preload.c and the boot id.

    What the processes of its machine have in their environment is in .env.
    """

    def __init__(self, folder: Path, beside: Path, library: Path):
        self.folder, self.shadow, self.boot_id = folder, beside / "shadow", beside / "boot_id"
        for part in (folder, self.shadow / "inodes", self.shadow / "names"):
            part.mkdir(parents=True, exist_ok=True)
        self.renew_boot_id()
        self.control = Control(beside / "control")
        self.env = {"LD_PRELOAD": str(library), "CRASH_CONTROL": str(beside / "control"), "CRASH_HOME": str(folder),
                    "CRASH_SHADOW": str(self.shadow), "CRASH_BOOT": str(self.boot_id)}

    def renew_boot_id(self) -> None:
        self.boot_id.write_text(f"{uuid.uuid4()}\n", encoding="ascii")

    def restore(self, written=lambda: False) -> None:
        """Once its processes have ended, bring each file back as it was last synced, or let it be as written."""
        synced_files = {self.folder / name.name.replace("%", "/"): self.shadow / "inodes" / os.readlink(name)
                        for name in (self.shadow / "names").iterdir()}
        there = [path for path in self.folder.rglob("*") if path.is_file()]
        for path in sorted({*synced_files, *there}):
            if path.name.endswith("-shm"):
                path.unlink(missing_ok=True)   # SQLite makes it anew
                continue
            if written():
                continue
            synced = synced_files.get(path)
            if synced is None:
                path.unlink()
                continue
            path.parent.mkdir(exist_ok=True)
            if synced.exists():
                shutil.copyfile(synced, path)
            else:
                path.touch()
            path.chmod(0o600)
        self.renew_boot_id()
        self.control.disarm()

    def sync(self, path: Path) -> None:
        """Count a file below folder, which this process has written, as synced."""
        found = os.stat(path)
        shutil.copyfile(path, self.shadow / "inodes" / f"made.{found.st_ino}")
        os.symlink(f"made.{found.st_ino}", self.shadow / "names" / str(path.relative_to(self.folder)).replace("/", "%"))
