"""The handler of the chaos run for gm-work --pipe: the same as `handler`, on behalf of gm-python."""

import os
import signal
import subprocess
import time

from libgm.python import Drop, Quarantine, Retry

HERE = os.path.dirname(os.path.abspath(__file__))
LOG = os.open(os.environ["CHAOS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
count = 0


def handle(job):
    global count
    count += 1
    ident, kind = job.data.split(b"\n")[0].decode().split()

    def say(what):
        with open("/proc/uptime", encoding="ascii") as file:
            now = file.read().split()[0]
        os.write(LOG, f"{what} {ident} {now} {job.attempts} {job.handle} - {os.getpid()}.{count}\n".encode())
    say("begun")
    if kind in ("good", "slow") or (kind in ("flaky", "lock") and job.attempts > 1) or os.path.exists(os.environ["CHAOS_FIXED"]):
        time.sleep(0.3 if kind == "slow" else 0)
        say("done")
    elif kind == "flaky":
        raise Retry(f"not yet: {ident}")
    elif kind == "bad":
        raise ValueError(f"no luck with {ident}")
    elif kind == "reject":
        raise Quarantine(f"unfit: {ident}")
    elif kind == "drop":
        say("dropped")
        raise Drop("of no use")
    elif kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "hang":
        time.sleep(1000)
    elif kind == "lock":
        subprocess.run([f"{HERE}/lock", os.environ["GM_QUARANTINE"], "0.4", str(os.getppid())], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL)
        raise Retry(f"while the file was locked: {ident}")
    elif kind == "kill":
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
            if b"gm-work" in file.read():
                os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1000)
