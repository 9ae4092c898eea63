#!/usr/bin/env python3
# Usage: client.py PORT FUNCTION bg|fg <JOBS
# PyPI's gear: a line is UNIQUE TAB PAYLOAD, the unique may be empty; fg prints how each job ends.
import queue
import sys

import gear

port, function, mode = sys.argv[1:]
ended = queue.Queue()


class Client(gear.Client):
    def handleWorkStatus(self, packet):
        job = super().handleWorkStatus(packet)
        print("status", job.numerator.decode(), job.denominator.decode())

    def handleWorkComplete(self, packet):
        ended.put(b"complete " + b"".join(super().handleWorkComplete(packet).data))

    def handleWorkFail(self, packet):
        super().handleWorkFail(packet)
        ended.put(b"fail")


client = Client()
client.addServer("127.0.0.1", int(port))
client.waitForServer(20)
for line in sys.stdin.buffer:
    unique, payload = line.rstrip(b"\n").split(b"\t", 1)
    client.submitJob(gear.Job(function.encode(), payload, unique), background=mode == "bg")
    if mode == "fg":
        print(ended.get().decode())
client.shutdown()
