#!/usr/bin/env python3
"""Usage: collector.py PORT. What BlueOx's collector does with a frame, in a few lines: a JSON line of each on stdout."""

import json
import struct
import sys

import msgpack
import zmq

socket = zmq.Context().socket(zmq.PULL)
socket.bind(f"tcp://127.0.0.1:{sys.argv[1]}")
while True:
    meta, data = socket.recv_multipart()
    version, end, host, kind = struct.unpack("!Bd64p64p", meta)
    event = msgpack.unpackb(data)
    assert version == 3 and (event["end"], event["host"], event["type"]) == (end, host.decode(), kind.decode())
    print(json.dumps(event), flush=True)
