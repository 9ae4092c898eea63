#!/usr/bin/env python3
"""Kill at random, until told to stop: workers, handlers and what they have started; never the gm-work that looks after them.

Usage: disturb.py SECONDS SEED PID...

SECONDS: between two kills, on average. PID: of a gm-work. Prints a line per kill.
"""

import os
import random
import signal
import sys
import time


def processes():
    """pid -> (pid of the parent, name) of all that live"""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
                name, _, rest = stat.read().partition("(")[2].rpartition(")")
        except OSError:
            continue
        found[int(pid)] = int(rest.split()[1]), name
    return found


def below(parents):
    """(pid, name) of all descendants of these processes"""
    all_of_them = processes()
    found, todo = [], list(parents)
    while todo:
        parent = todo.pop()
        children = [(pid, name) for pid, (above, name) in all_of_them.items() if above == parent]
        found += children
        todo += [pid for pid, _ in children]
    return sorted(found)


def main(seconds, seed, *parents):
    dice = random.Random(seed)
    while True:
        time.sleep(dice.uniform(0.2, 1.8) * float(seconds))
        victims = below(map(int, parents))
        if victims:
            pid, name = dice.choice(victims)
            try:
                os.kill(pid, signal.SIGKILL)
                print(f"killed {name} {pid}", flush=True)
            except ProcessLookupError:
                pass


if __name__ == "__main__":
    main(*sys.argv[1:])
