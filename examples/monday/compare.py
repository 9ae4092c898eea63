#!/usr/bin/env python3
"""What became of the orders: compare.py ORDERS SPOOL. Prints how many are as they were, edited, absent, and otherwise changed."""

import json
import sys
from base64 import b64decode
from pathlib import Path

found = {"same": 0, "edited": 0, "absent": 0, "changed": 0}
for line in Path(sys.argv[1]).read_bytes().splitlines():
    job = json.loads(line)
    data = job["data"].encode() if "data" in job else b64decode(job["data_b64"])
    path = Path(sys.argv[2], job["unique"][len("order-"):] + ".json")
    there = path.read_bytes() if path.exists() else None
    if there is None:
        found["absent"] += 1
    elif there == data:
        found["same"] += 1
    elif b"old/" in data and there == data.replace(b"old/", b"new/"):
        found["edited"] += 1
    else:
        found["changed"] += 1
print(" ".join(f"{count} {name}" for name, count in found.items()))
