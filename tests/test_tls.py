"""tls:// to a real gearmand, with a certificate authority made for the test: all tools work, and nothing unchecked does."""

from __future__ import annotations

import datetime
import socket
import sys

import pytest
import trustme
from conftest import ROOT, free_port, until

pytestmark = pytest.mark.slow


@pytest.fixture
def authority(gm, tmp_path):
    """A certificate authority that the tools are told to trust."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    gm.env["GM_TLS_CA"] = str(tmp_path / "ca.pem")
    return made


@pytest.fixture
def tls(gm, gearmand, tmp_path):
    """tls(certificate) -> port of a TLS front of gearmand that shows it."""
    def start(certificate, *client_authority):
        port = free_port()
        name = f"front-{port}"
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(tmp_path / f"{name}.pem", append=number > 0)
        gm.start(sys.executable, ROOT / "tests/tls_front.py", port, gearmand.port, tmp_path / f"{name}.pem",
                 tmp_path / f"{name}.key", *client_authority)

        def listens():
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0
        until(listens)
        return port
    return start


def test_every_tool_that_speaks_to_a_server_works_over_tls(gm, authority, tls, tmp_path):
    gm.env["GM_SERVERS"] = server = f"tls://localhost:{tls(authority.issue_cert('localhost'))}"
    payload = bytes(range(256)) * 2000
    record, = gm("gm-submit", "f", "-", input=payload).records
    assert record["server"] == server
    gm("gm-work", "--until-empty", "--delay=0", "--tries=2", "f", "--", "false")
    assert gm("gm-dead", "--data", "1").out == payload
    gm("gm-requeue", "1")
    status = {row["function"]: row for row in gm("gm-status").records}
    assert status["f"]["waiting"] == 1 and status["f"]["servers"] == [server]
    assert gm("gm-check", "server").status == 0
    gm("gm-work", "--until-empty", "--tries=1", "--via=gearmang", "f", "--", "sh", "-c", f"cat > {tmp_path}/got; exit 1")
    assert (tmp_path / "got").read_bytes() == payload
    gm("gm-collect", "--until-empty")
    assert [record["attempts"] for record in gm("gm-dead").records] == [1]
    worker = gm.start("gm-work", "up", "--", "tr", "a-z", "A-Z")
    assert gm("gm-submit", "--wait", "up", input=b"both ways\n").records[0]["result"] == "BOTH WAYS"
    worker.terminate()
    assert worker.wait(20) == 0


def refused(gm, server: str, *why: bytes) -> None:
    """gm-submit, gm-work and gm-status each say in one line that they do not trust the server, and nothing is sent."""
    for tool, text in ((("gm-submit", "f"), b"x\n"), (("gm-work", "--until-empty", "f", "--", "cat"), b""),
                       (("gm-status",), b"")):
        result = gm(tool[0], f"--server={server}", *tool[1:], input=text, status=None)
        assert result.status == 111, result
        assert result.err.count(b"\n") == 1 and server.encode() in result.err, result
        assert any(reason in result.err.lower() for reason in why), result


@pytest.mark.parametrize("case", ["another authority", "another name", "expired", "not yet valid", "plain port",
                                  "system's authorities"])
def test_a_certificate_is_never_unchecked(gm, gearmand, authority, tls, tmp_path, case):
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    host, cert, why = "localhost", authority.issue_cert("localhost"), (b"certificate",)
    if case == "another authority":
        cert, why = trustme.CA().issue_cert("localhost"), (b"unable to get", b"self-signed", b"self signed", b"signature")
    elif case == "another name":
        host, why = "127.0.0.1", (b"mismatch", b"not valid for")
    elif case == "expired":
        cert, why = authority.issue_cert("localhost", not_before=now - 9 * day, not_after=now - day), (b"expired",)
    elif case == "not yet valid":
        cert, why = authority.issue_cert("localhost", not_before=now + day, not_after=now + 9 * day), (b"not yet valid",)
    elif case == "system's authorities":
        del gm.env["GM_TLS_CA"]
        why = (b"unable to get", b"self-signed", b"self signed")
    if case == "plain port":
        port, why = gearmand.port, (b"tls",)
    else:
        port = tls(cert)
    refused(gm, f"tls://{host}:{port}", *why)
    assert gearmand.status() == {}


def test_a_tls_port_without_tls_is_lost_not_waited_for(gm, authority, tls):
    """The other direction: plain tools at a TLS port."""
    port = tls(authority.issue_cert("localhost"))
    result = gm("gm-submit", f"--server=127.0.0.1:{port}", "f", input=b"x\n", status=111, env={"GM_TIMEOUT": "2"})
    assert result.err.count(b"\n") == 1 and f"127.0.0.1:{port}".encode() in result.err


def test_a_client_certificate_is_shown_where_one_is_wanted(gm, authority, tls, tmp_path):
    server = f"tls://localhost:{tls(authority.issue_cert('localhost'), tmp_path / 'ca.pem')}"
    assert server.encode() in gm("gm-submit", f"--server={server}", "f", input=b"x\n", status=111).err
    mine = authority.issue_cert("worker@example.org")
    mine.private_key_pem.write_to_path(tmp_path / "mine.key")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "mine.pem")
    gm.env.update(GM_TLS_CERT=str(tmp_path / "mine.pem"), GM_TLS_KEY=str(tmp_path / "mine.key"))
    assert gm("gm-submit", f"--server={server}", "f", input=b"x\n").records[0]["server"] == server


@pytest.mark.parametrize("name", ["GM_TLS_CA", "GM_TLS_CERT"])
def test_a_file_of_certificates_that_is_not_there_is_said(gm, gearmand, authority, tls, name):
    server = f"tls://localhost:{tls(authority.issue_cert('localhost'))}"
    result = gm("gm-submit", f"--server={server}", "f", input=b"x\n", status=111, env={name: "/nowhere/ca.pem"})
    assert result.err.count(b"\n") == 1 and b"/nowhere/ca.pem" in result.err


def test_a_list_may_mix_both(gm, gearmand, authority, tls):
    port = tls(authority.issue_cert("localhost"))
    record, = gm("gm-submit", f"--server=tls://127.0.0.1:{port},127.0.0.1:{gearmand.port}", "f", input=b"x\n").records
    assert record["server"] == f"127.0.0.1:{gearmand.port}"   # the one whose name is wrong is passed over, never used


def test_a_gearmand_built_without_tls_is_not_started_with_it(gm, tmp_path):
    """Debian's takes --ssl, logs `with SSL: true`, and would speak plain text."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/gearmand"
    program.write_text("#!/bin/sh\necho started\n")
    program.chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:{gm.env['PATH']}"}
    start = ("gm-server", f"--store={tmp_path}/store.db", f"--port={free_port()}", "--")
    result = gm(*start, "--ssl", env=env, status=126)
    assert result.err.count(b"\n") == 1 and b"built without TLS" in result.err and result.out == b""
    program.write_text("#!/bin/sh\necho started # SSL_accept\n")
    assert b"started" in gm(*start, "--ssl", env=env).out
