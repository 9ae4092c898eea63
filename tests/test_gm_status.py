"""gm-status: queues, workers and quarantine in one snapshot."""

from __future__ import annotations

from conftest import until
from test_gm_dead import die  # noqa: F401  a fixture


def of(gm, function, *options, status=0):
    return next((record for record in gm("gm-status", *options, status=status).records
                 if record["function"] == function), None)


def test_counts_of_a_function(gm, gearmand, die, tmp_path):  # noqa: F811
    die("n", b"1\n2\n")
    die("n", b"3\n", "exit 1", "--tries=2", "--delay=1h")
    gm("gm-submit", "-q", "n", input=b"".join(b"%d\n" % n for n in range(1000)))
    gm("gm-submit", "-q", "--priority=high", "n", input=b"x\n")
    record = of(gm, "n")
    assert (record["waiting"], record["running"], record["workers"], record["delayed"], record["dead"]) == (1001, 0, 0, 1, 2)
    assert (record["high"], record["normal"], record["low"]) == (1, 1000, 0)
    assert record["servers"] == [gearmand.server] and record["oldest_dead"] and record["oldest_start"] is None
    gm.start("gm-work", "n", "--", "sh", "-c", "sleep 1000")
    until(lambda: of(gm, "n")["running"] == 1)
    record = of(gm, "n")
    assert record["waiting"] == 1000 and record["workers"] == 1 and record["oldest_start"]


def test_workers_of_gearmand_and_of_the_file(gm, gearmand):
    gm("gm-submit", "-u", "mine", "w", input=b"x\n")
    gm.start("gm-work", "w", "--", "sh", "-c", "sleep 1000")
    until(lambda: [r for r in gm("gm-status", "--workers").records if r["source"] == "file" and r["unique"] == "mine"])
    records = gm("gm-status", "--workers").records
    assert any(r["source"] == "gearmand" and r["functions"] == ["w"] for r in records)
    assert all(r["alive"] for r in records if r["source"] == "file")


def test_a_server_that_is_down_is_said_and_the_others_shown(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"x\n")
    both = f"127.0.0.1:1,{gearmand.server}"
    result = gm("gm-status", "-s", both, status=1)
    assert b"127.0.0.1:1" in result.err and result.records[0]["waiting"] == 1
    gm("gm-status", "-s", "127.0.0.1:1", status=111)


def test_function_names_of_any_kind(gm, gearmand):
    gm("gm-submit", "-q", "tab\there é", input=b"x\n")
    assert of(gm, "tab\there é")["waiting"] == 1
