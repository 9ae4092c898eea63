#!/usr/bin/env python3
"""What gearmang is measured against, as programs: raw sockets (the ceiling), python3-gearman as it comes, huey on SQLite, RQ.

Usage: peers.py raw-submit|raw-work|library-submit|library-work PORT FUNCTION COUNT
       peers.py raw-round-trip PORT FUNCTION FILE
       peers.py huey-enqueue|huey-execute DATABASE COUNT
       peers.py rq-enqueue|rq-enqueue-many|rq-fail|rq-simple-worker PORT QUEUE COUNT
       peers.py spawn COUNT
       peers.py sink PORT
       peers.py memory COMMAND...
"""

import os
import socket
import struct
import sys

HEADER = struct.Struct(">4sII")
SUBMIT_BG, SUBMIT, CREATED, GRAB, NO_JOB, ASSIGN, COMPLETE, CAN_DO = 18, 7, 8, 9, 10, 11, 13, 1
PAYLOAD = b"x" * 100


def packet(kind, *fields):
    body = b"\0".join(fields)
    return b"\0REQ" + struct.pack(">II", kind, len(body)) + body


class Raw:
    """Packets on a socket, read in large pieces."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = bytearray()

    def packets(self):
        """(type, body) of the packets that are here, waiting for the first."""
        found = []
        while not found:
            chunk = self.socket.recv(1 << 18)
            if not chunk:
                sys.exit("the server is gone")
            self.data += chunk
            at = 0
            while len(self.data) - at >= 12:
                _, kind, length = HEADER.unpack_from(self.data, at)
                if len(self.data) - at < 12 + length:
                    break
                found.append((kind, bytes(self.data[at + 12:at + 12 + length])))
                at += 12 + length
            del self.data[:at]
        return found


def raw_submit(port, function, count):
    raw, sent, done, count = Raw(port), 0, 0, int(count)
    while done < count:
        if sent - done < 1000 and sent < count:
            some = range(sent, min(count, sent + 1000))
            raw.socket.sendall(b"".join(packet(SUBMIT_BG, function, b"r%d" % number, PAYLOAD) for number in some))
            sent = some[-1] + 1
        done += len(raw.packets())


def raw_work(port, function, count):
    raw, count = Raw(port), int(count)
    raw.socket.sendall(packet(CAN_DO, function) + packet(GRAB) * 10)
    while count:
        answers = []
        for kind, body in raw.packets():
            if kind == ASSIGN:
                handle, _, data = body.split(b"\0", 2)
                answers.append(packet(COMPLETE, handle, data) + packet(GRAB))
                count -= 1
            elif kind == NO_JOB:
                answers.append(packet(GRAB))
        raw.socket.sendall(b"".join(answers))


def raw_round_trip(port, function, path):
    """A client and an echoing worker: one payload there and its result back."""
    with open(path, "rb") as file:
        payload = file.read()
    worker, client = Raw(port), Raw(port)
    worker.socket.sendall(packet(CAN_DO, function))
    client.socket.sendall(packet(SUBMIT, function, b"", payload))
    client.packets()
    worker.socket.sendall(packet(GRAB))
    handle, _, data = worker.packets()[0][1].split(b"\0", 2)
    worker.socket.sendall(packet(COMPLETE, handle, data))
    client.packets()


def library_submit(port, function, count):
    from python3_gearman import GearmanClient
    client = GearmanClient([f"127.0.0.1:{port}"])
    for number in range(int(count)):
        client.submit_job(function, "x" * 100, unique=f"l{number}", background=True, wait_until_complete=False)


def library_work(port, function, count):
    from python3_gearman import GearmanWorker

    class Worker(GearmanWorker):
        left = int(count)

        def after_poll(self, any_activity):
            return self.left > 0

    def task(worker, job):
        worker.left -= 1
        return ""
    worker = Worker([f"127.0.0.1:{port}"])
    worker.register_task(function, task)
    worker.work()


def huey(path):
    from huey import SqliteHuey
    queue = SqliteHuey(filename=path, immediate=False, results=False)

    @queue.task()
    def task(data):
        return None
    return queue, task


def huey_enqueue(path, count):
    _, task = huey(path)
    for _ in range(int(count)):
        task("x" * 100)


def huey_execute(path, count):
    queue, _ = huey(path)
    for _ in range(int(count)):
        queue.execute(queue.dequeue())


def rq_queue(port, name):
    from redis import Redis
    from rq import Queue
    return Queue(name, connection=Redis(port=int(port)))


def rq_enqueue(port, name, count):
    queue = rq_queue(port, name)
    for _ in range(int(count)):
        queue.enqueue("rq_jobs.nothing", "x" * 100, result_ttl=0)


def rq_enqueue_many(port, name, count, function="rq_jobs.nothing"):
    queue = rq_queue(port, name)
    for at in range(0, int(count), 1000):
        queue.enqueue_many([queue.prepare_data(function, ("x" * 100,), result_ttl=0)
                            for _ in range(min(1000, int(count) - at))])


def rq_simple_worker(port, name, count):
    from rq import SimpleWorker
    queue = rq_queue(port, name)
    SimpleWorker([queue], connection=queue.connection).work(burst=True, logging_level="CRITICAL")


def rq_fail(port, name, count):
    """So many jobs that have failed."""
    rq_enqueue_many(port, name, count, "rq_jobs.fail")
    rq_simple_worker(port, name, count)


def spawn(count):
    """cat for each of so many payloads, fed, read and waited for, and nothing else."""
    for _ in range(int(count)):
        (theirs, feed), (read, out) = os.pipe(), os.pipe()
        pid = os.posix_spawnp("cat", ["cat"], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0),
                                                                     (os.POSIX_SPAWN_DUP2, out, 1)])
        os.close(theirs)
        os.close(out)
        os.write(feed, PAYLOAD)
        os.close(feed)
        while os.read(read, 1 << 16):
            pass
        os.close(read)
        os.waitpid(pid, 0)


def sink(port):
    """A server that accepts every submission and keeps none."""
    listener = socket.create_server(("127.0.0.1", int(port)))
    while True:
        connection = listener.accept()[0]
        raw = Raw.__new__(Raw)
        raw.socket, raw.data = connection, bytearray()
        created = b"\0RES" + struct.pack(">II", CREATED, 8) + b"H:sink:1"
        try:
            while True:
                connection.sendall(created * len(raw.packets()))
        except (SystemExit, OSError):
            connection.close()


def memory(*command):
    """Print MiB of resident memory that COMMAND has at most."""
    null = os.open(os.devnull, os.O_WRONLY)
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"status {os.waitstatus_to_exitcode(status)}")
    print(usage.ru_maxrss / 1024)


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    if name.startswith(("raw", "library")):
        port, function, *rest = arguments
        arguments = [port, function if name.startswith("library") else function.encode(), *rest]
    globals()[name.replace("-", "_")](*arguments)
