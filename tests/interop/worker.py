#!/usr/bin/env python3
# Usage: worker.py PORT FUNCTION LOG
# PyPI's gear: a job is {"n": NUMBER, "how": HOW}; what is not JSON fails.
# LOG gets a line per job: its payload in base64, and how.
import base64
import json
import sys

import gear

port, function, log = sys.argv[1:]
worker = gear.Worker(b"gear")
worker.addServer("127.0.0.1", int(port))
worker.waitForServer(20)
worker.registerFunction(function.encode())
while True:
    job = worker.getJob()
    try:
        given = json.loads(job.arguments)
    except ValueError:
        given = {"how": "undecodable"}
    how = given.get("how", "ok")
    with open(log, "ab") as out:
        out.write(base64.b64encode(job.arguments) + f" {how}\n".encode())
    if how == "raise":
        job.sendWorkException(b"no luck")
    elif how in ("fail", "undecodable"):
        job.sendWorkFail()
    else:
        if how == "progress":
            job.sendWorkStatus(1, 2)
        job.sendWorkComplete(b"done %d" % given["n"])
