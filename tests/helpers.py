"""What several test files use: terminals, processes, servers that answer anything, quarantined jobs, events."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import re
import socket
import sqlite3
import threading
from pathlib import Path

from conftest import Tools

from libgm import wire
from libgm.gearman import address
from libgm.quarantine import processes

HOSTILE = "tab\there é \x1b[31m\"q\\|"   # a name of a function
EVENT = {"event": "dead", "time": "2026-11-25T07:30:16Z", "function": "resize", "unique": "photo-17", "handle": "H:host:12",
         "attempts": 3, "duration": 0.25, "exit": 3, "signal": None, "reason": "error", "error": "disk full", "worker": 1234,
         "host": "worker-7", "server": "127.0.0.1:4730", "extra": {}}


def terminal(gm: Tools, *args, status=0) -> str:
    """What a tool prints on an 80 column terminal; its exit status is checked, unless status is None."""
    master, slave = pty.openpty()
    process = gm.popen(args, {"COLUMNS": "80"}, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:   # Linux says EIO when nobody has the terminal open any more
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    process.wait(10)
    assert status is None or process.returncode == status, f"{args}: status {process.returncode}: {shown!r}"
    return shown.replace(b"\r\n", b"\n").decode()


# ---- processes


def children(pid: int) -> list[int]:
    """The pids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: proc(5) counts it as the third."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def ended(pid: int) -> bool:
    """Whether a process has ended; its parent need not have waited for it."""
    try:
        return stat(pid)[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def cpu_seconds(*pids: int) -> float:
    """The processor time that processes have had."""
    return sum(int(ticks) for pid in pids for ticks in stat(pid)[11:13]) / os.sysconf("SC_CLK_TCK")


def read_only(folder: Path, command: list) -> list:
    """command as it runs where folder is a read-only volume; where modes hold, they are enough."""
    if os.getuid() == 0:
        mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        return ["unshare", "-m", "sh", "-c", mount, folder, *command]
    for path in folder.iterdir():
        path.chmod(0o444)
    return ["sh", "-c", 'chmod 555 "$0"; "$@"; status=$?; chmod 755 "$0"; exit $status', folder, *command]


def digests(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of each file in folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def make_job_older(gm: Tools, function: str, seconds: float) -> None:
    """Let the job of a function that is under way have begun so many seconds ago."""
    with gm.database() as db:
        (worker, run, begun), = db.execute("SELECT process, run, started FROM start WHERE function = ?", (function,))
        db.execute("UPDATE start SET started = started - ? WHERE function = ?", (seconds, function))
    processes.note(gm.env["GM_QUARANTINE"], worker, run, begun - seconds)


# ---- servers


class Fake:
    """A server that does to each connection what serve(socket) says, one after the other, in a thread."""

    def __init__(self, serve):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.server = address.Server("127.0.0.1", self.listener.getsockname()[1], False)
        self.serve, self.seen = serve, 0
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.seen += 1
            with connection:
                try:
                    self.serve(connection)
                except OSError:
                    pass

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def answering(fake, rows: bytes, workers: bytes = b"", priorities: bytes | None = None) -> str:
    """A server whose status is these lines; those of prioritystatus are made from them, where they are not given."""
    if priorities is None:
        priorities = re.sub(rb"(?m)$(?=\n)", b"\t0", rows)

    def serve(connection):
        asked = b""
        while True:
            chunk = connection.recv(1000)
            if not chunk:
                return
            asked += chunk
            *lines, asked = asked.split(b"\n")
            if asked.startswith(b"\0REQ") and len(asked) == 12 + 32:   # GET_STATUS, whose answer ends it all
                lines, asked = [*lines, asked], b""
            for line in lines:
                if line.startswith(b"\0REQ"):
                    connection.sendall(b"\0RES\0\0\0\x14\0\0\0\x28" + line[12:] + b"\0000" * 4)
                    continue
                answer = {b"status": rows, b"prioritystatus": priorities, b"workers": workers}
                connection.sendall(answer[line] + b".\n" if line in answer else b"OK 1.1.20\n")
    return str(fake(serve).server)


def hear_out(connection: socket.socket) -> None:
    """Serve nothing: read what the client says until it leaves."""
    while connection.recv(1 << 20):
        pass


def silent(fake) -> str:
    """A server that accepts and never answers."""
    return str(fake(hear_out).server)


def status_of(gm: Tools, function: str, *options, status=0) -> dict | None:
    """gm-status's record of a function; None where it has none."""
    return next((record for record in gm("gm-status", *options, status=status).records
                 if record["function"] == function), None)


# ---- jobs and events


def idents(gm: Tools, *options) -> list[int]:
    """The ids that gm-dead lists."""
    return [record["id"] for record in gm("gm-dead", *options).records]


def dead_count(gm: Tools) -> int:
    """How many rows of jobs the quarantine file has, seen without a tool: at any moment, in no time."""
    with gm.database() as db:
        return db.execute("SELECT count(*) FROM job").fetchone()[0]


def bury(gm: Tools, payloads: list[bytes], function: str = "f") -> None:
    """Quarantine jobs with these payloads, each with a unique of its own: u0, u1, ..."""
    lines = [json.dumps({"function": function, "unique": f"u{n}", "last_failed": "2026-01-01T00:00:00Z",
                         "data_b64": base64.b64encode(payload).decode()}) + "\n" for n, payload in enumerate(payloads)]
    gm("gm-bury", "-q", input="".join(lines).encode())


def listing_file(gm: Tools) -> Path:
    """A file with the records of all dead jobs."""
    path = gm.home / "listing"
    path.write_bytes(gm("gm-dead").out)
    return path


def queued(gearmand) -> list:
    """What is in the queue, by the file of gearmand: (own unique, header, payload) of each job, in its order."""
    db = sqlite3.connect(gearmand.store)
    try:
        rows = db.execute("SELECT function_name, unique_key, data FROM gearman_queue ORDER BY rowid").fetchall()
    finally:
        db.close()
    found = [wire.unpack(*(value if isinstance(value, bytes) else value.encode() for value in row)) for row in rows]
    assert len({header.key for _, header, _ in found}) == len(found)
    return found


def lines(*events: dict) -> bytes:
    """EVENT as lines of JSON, each changed as an argument says."""
    return b"".join(json.dumps({**EVENT, **event}, ensure_ascii=False).encode() + b"\n" for event in events)
