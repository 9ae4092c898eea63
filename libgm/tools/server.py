"""gm-server: check gearmand's options, lock and prepare its store, and become gearmand."""

from __future__ import annotations

import contextlib
import errno
import os

from libgm.errors import NOT_FOUND, CannotRun, Unavailable, Usage, reason
from libgm.quarantine.file import check_place, make
from libgm.shell import places
from libgm.tools import twins

SBIN = "/usr/local/sbin:/usr/sbin:/opt/homebrew/sbin"   # where gearmand may be without being on a user's PATH
PACKAGES = "Debian: gearman-job-server, Fedora: gearmand, brew: gearman"
LOSES_JOBS = {
    "--job-retries": "it deletes a job whose workers died, without a trace; gm-work --tries quarantines it",
    "--store-queue-on-shutdown": "it writes no job before a clean stop",
}
OWN = {
    "--queue-type": "gm-server sets it",
    "--libsqlite3-db": "give gm-server --store",
    "--libsqlite3-table": "gm-server prepares gearman_queue only",
    "--listen": "give it before the --",
    "--port": "give it before the --",
    "--daemon": "gm-server stays in the foreground, and so does its lock",
    "--user": "start gm-server as the user who owns the store",
    "--config-file": "gm-server could not check the options there; give them here",
}
REFUSED = {**LOSES_JOBS, **OWN}
SHORT = {"j": "--job-retries", "q": "--queue-type", "L": "--listen", "p": "--port",
         "d": "--daemon", "u": "--user"}
SHORT_FLAGS = "dhRV"   # gearmand's short options without a value: others may follow in the same word
# gearmand does not start with a row whose column is not of the type that it writes itself.
CURES = (   # column, type, value in its place
    ("data", "blob", "coalesce(cast(data AS BLOB), zeroblob(0))"),
    ("when_to_run", "integer", "0"),
    ("priority", "integer", "1"),
)


def default_store() -> str:
    """The path of the store without --store. Make its folder in the user's home. Raises Usage, Unavailable."""
    folder = places.state_folder("--store", "gearmand.db")
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{folder}: cannot make the folder: {reason(error)}") from None
    return os.path.join(folder, "gearmand.db")


def long_names(word: str) -> list[str]:
    """The options in a word of gearmand's command line; those of SHORT by their long names."""
    if word.startswith("--"):
        return [word.partition("=")[0]]
    names = []
    for letter in word[1:] if word.startswith("-") else "":
        names.append(SHORT.get(letter, "-" + letter))
        if letter not in SHORT_FLAGS:
            break
    return names


def check_options(options: list[str]) -> None:
    """Refuse options of gearmand that lose jobs or are gm-server's own, abbreviated ones too. Raises Usage."""
    for word in options:
        for name in long_names(word):
            for refused, why in REFUSED.items():
                if name.startswith("--") and len(name) > 2 and refused.startswith(name):
                    raise Usage(f"{word}: gearmand's {refused} is refused: {why}")


def find() -> str:
    """The path of gearmand. Raises CannotRun, status 127."""
    import shutil
    path = shutil.which("gearmand", path=os.environ.get("PATH", os.defpath) + ":" + SBIN)
    if not path:
        raise CannotRun(f"gearmand: not found: install it ({PACKAGES})", NOT_FOUND)
    return path


def check_tls(program: str, options: list[str]) -> None:
    """Refuse --ssl for a gearmand built without TLS, as Debian 12's: it would accept the option and speak plain text.

    Raises CannotRun.
    """
    if not any(word.partition("=")[0] == "--ssl" for word in options):
        return
    with open(program, "rb") as file:
        if b"SSL_accept" not in file.read():   # OpenSSL's, and the end of wolfSSL's
            raise CannotRun(f"{program}: built without TLS: with --ssl it would speak plain text all the same: "
                            "put stunnel in front of it")


def endpoint(listen: str, port: int) -> str:
    """The address as a client's --server."""
    return f"[{listen}]:{port}" if ":" in listen else f"{listen}:{port}"


def check_port(listen: str, port: int) -> None:
    """Refuse an address that cannot be listened on: gearmand would try in silence for 22 seconds. Raises Unavailable."""
    import socket
    try:
        found = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
    except OSError as error:
        another = ": another gearmand? Debian starts one: systemctl disable --now gearman-job-server"
        raise Unavailable(f"{endpoint(listen, port)}: cannot listen: {reason(error)}" +
                          (another if error.errno == errno.EADDRINUSE else "")) from None


def lock(store: str) -> None:
    """Lock the path of the store until this process, and the gearmand that it becomes, ends. Raises Unavailable."""
    path = os.path.realpath(store) + ".lock"
    try:
        make(path)
        flock(path, store)
    except OSError as error:
        raise Unavailable(f"{path}: cannot lock the store: {reason(error)}") from None


def flock(path: str, store: str) -> None:
    """Lock a file likewise. Raises Unavailable where it is locked, OSError."""
    import fcntl
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Unavailable(f"{store}: in use by another gm-server: two on one store delete each other's jobs") from None
    os.set_inheritable(fd, True)


def prepare(store: str) -> tuple[int, int]:
    """Make the store or repair it. Return how many jobs are in it, and how many were repaired. Raises Unavailable."""
    import sqlite3
    path = os.path.realpath(store)
    try:
        if os.path.islink(store):
            os.stat(store)   # no file is made through a link
        check_place(path)
        make(path)
        flock(path, store)   # by whatever name another has it; flock() and SQLite's fcntl() locks do not meet
    except OSError as error:
        raise Unavailable(f"{store}: cannot create the store: {reason(error)}") from None
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise Unavailable(f"{store}: the store is damaged: {' '.join(found.split())}: see gm-salvage")
            if database.execute("PRAGMA application_id").fetchone()[0]:
                raise Unavailable(f"{store}: a database of something else")
            if database.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                raise Unavailable(f"{store}: the store cannot be put in WAL mode here")
            database.execute("BEGIN IMMEDIATE")
            twins.prepare(database)
            counts = repair(database)
            database.execute("COMMIT")
            return counts
    except sqlite3.Error as error:
        raise Unavailable(f"{store}: cannot use this file as a store: {error}") from None


def repair(database) -> tuple[int, int]:
    """Repair the rows on which gearmand would not start. Return how many jobs there are, and how many were repaired."""
    there = {row[1] for row in database.execute("PRAGMA table_info(gearman_queue)")}
    cures = [cure for cure in CURES if cure[0] in there]
    jobs = database.execute("SELECT count(*) FROM gearman_queue").fetchone()[0]
    wrong = " OR ".join(f"typeof({column}) <> '{kind}'" for column, kind, _ in cures)
    right = ", ".join(f"{column} = CASE typeof({column}) WHEN '{kind}' THEN {column} ELSE {value} END"
                      for column, kind, value in cures)
    return jobs, database.execute(f"UPDATE gearman_queue SET {right} WHERE {wrong}").rowcount


def command(program: str, store: str, listen: str, port: int, options: list[str]) -> list[str]:
    """gearmand's command line, without its default log and pid file, which only root may write."""
    given = {name for word in options for name in long_names(word)}
    path = os.path.realpath(store)
    words = [program, "--config-file=/dev/null", "--queue-type=libsqlite3", f"--libsqlite3-db={path}",
             f"--listen={listen}", f"--port={port}"]
    if not given & {"-l", "--log-file", "--syslog"}:
        words.append("--log-file=stderr")
    if not given & {"-P", "--pid-file"}:
        words.append(f"--pid-file={path}.pid")
    return words + options


def become(words: list[str]) -> None:
    """Turn this process into gearmand. Raises CannotRun."""
    try:
        os.execv(words[0], words)
    except OSError as error:
        raise CannotRun(f"{words[0]}: cannot run: {reason(error)}") from None
