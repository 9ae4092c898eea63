"""Twins: waiting jobs that gearmand's table would keep as one. gm-server(1) is the manual.

gearmand names a job's row by its unique and function, and replaces a row of the same name. In memory it keeps jobs apart
that share a name: background jobs without a unique, with the unique -, or with 64-byte uniques that differ in their last
byte, which it cuts. Triggers in the store rename the older row when such a twin comes.

Nothing tells which of several twins a deletion means. So each deletion is counted, and all rows stay until as many are
deleted as there are. A crash repeats at most OWED of the jobs that were done; beyond it the oldest row goes.
"""

from __future__ import annotations

import os

OWED = 1000
# gearmand does not start on this row, since it has no payload. It is there while the counts are: they are of the jobs in
# one gearmand's memory, and void for the next one.
MARK = ("start this store with gm-server", "gm-server")
TABLE = ("CREATE TABLE IF NOT EXISTS gearman_queue (unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, "
         "when_to_run INTEGER, PRIMARY KEY (unique_key, function_name))")   # as gearmand makes it

ROW = "unique_key = NEW.unique_key AND function_name = NEW.function_name"
OLD_ROW = ROW.replace("NEW", "OLD")
MARKED = f"unique_key = '{MARK[0]}' AND function_name = '{MARK[1]}'"
FIRST, LAST = (f"(SELECT id FROM gm_renamed WHERE {ROW} ORDER BY id {order} LIMIT 1)" for order in ("ASC", "DESC"))
PREFIX = "(SELECT prefix FROM gm_prefix)"

# Every job pays for the two triggers on gearman_queue, so they only look whether there is a twin, and are short. The work is
# done by triggers on views. None of them calls a function: SQLite would then keep a journal of every statement.
SCHEMA = (
    # done: how many of the total rows of that name gearmand has deleted
    "CREATE TABLE gm_twin (unique_key, function_name, total INTEGER, done INTEGER, PRIMARY KEY (unique_key, function_name))",
    # the former name of the row whose unique_key is now the prefix and the id
    "CREATE TABLE gm_renamed (id INTEGER PRIMARY KEY, unique_key, function_name)",
    "CREATE INDEX gm_renamed_row ON gm_renamed (unique_key, function_name)",
    "CREATE TABLE gm_prefix (prefix TEXT)",
    *(f"CREATE VIEW {name} AS SELECT unique_key, function_name FROM gm_twin"
      for name in ("gm_inserted", "gm_deleted", "gm_finished", "gm_crowded")),
    f"""CREATE TRIGGER gm_insert BEFORE INSERT ON gearman_queue WHEN EXISTS (SELECT 1 FROM gearman_queue WHERE {ROW}) BEGIN
      INSERT INTO gm_inserted VALUES (NEW.unique_key, NEW.function_name);
    END""",
    # WHERE NOT EXISTS, since the OR REPLACE of gearmand's statement would hold for these insertions, too
    f"""CREATE TRIGGER gm_rename INSTEAD OF INSERT ON gm_inserted BEGIN
      INSERT INTO gm_renamed (unique_key, function_name) VALUES (NEW.unique_key, NEW.function_name);
      UPDATE gearman_queue SET unique_key = {PREFIX} || {LAST} WHERE {ROW};
      INSERT INTO gm_twin SELECT NEW.unique_key, NEW.function_name, 1, 0 WHERE NOT EXISTS (SELECT 1 FROM gm_twin WHERE {ROW});
      UPDATE gm_twin SET total = total + 1 WHERE {ROW};
      INSERT INTO gearman_queue (unique_key, function_name) SELECT '{MARK[0]}', '{MARK[1]}'
        WHERE NOT EXISTS (SELECT 1 FROM gearman_queue WHERE {MARKED});
    END""",
    f"""CREATE TRIGGER gm_delete BEFORE DELETE ON gearman_queue WHEN EXISTS (SELECT 1 FROM gm_twin WHERE {OLD_ROW}) BEGIN
      INSERT INTO gm_deleted VALUES (OLD.unique_key, OLD.function_name);
      SELECT RAISE(IGNORE) WHERE EXISTS (SELECT 1 FROM gm_twin WHERE {OLD_ROW});
    END""",
    f"""CREATE TRIGGER gm_count INSTEAD OF INSERT ON gm_deleted BEGIN
      UPDATE gm_twin SET done = done + 1 WHERE {ROW};
      INSERT INTO gm_finished SELECT unique_key, function_name FROM gm_twin WHERE {ROW} AND done >= total;
      INSERT INTO gm_crowded SELECT unique_key, function_name FROM gm_twin WHERE {ROW} AND done > {OWED};
    END""",
    f"""CREATE TRIGGER gm_finish INSTEAD OF INSERT ON gm_finished BEGIN
      DELETE FROM gearman_queue WHERE function_name = NEW.function_name
        AND unique_key IN (SELECT {PREFIX} || id FROM gm_renamed WHERE {ROW});
      DELETE FROM gm_renamed WHERE {ROW};
      DELETE FROM gm_twin WHERE {ROW};
      DELETE FROM gearman_queue WHERE {MARKED} AND NOT EXISTS (SELECT 1 FROM gm_twin);
    END""",
    f"""CREATE TRIGGER gm_crowd INSTEAD OF INSERT ON gm_crowded BEGIN
      DELETE FROM gearman_queue WHERE unique_key = {PREFIX} || {FIRST} AND function_name = NEW.function_name;
      DELETE FROM gm_renamed WHERE id = {FIRST};
      UPDATE gm_twin SET done = done - 1, total = total - 1 WHERE {ROW};
    END""",
)


def prepare(db) -> None:
    """Make gearmand's table and, afresh, what keeps twins apart, within a transaction of the caller's. Raises sqlite3.Error.

    Renamed rows keep their names: each is now a job of its own.
    """
    for statement in reversed(SCHEMA):
        kind, name = statement.split()[1:3]
        db.execute(f"DROP {kind} IF EXISTS {name}")
    db.execute(TABLE)
    db.execute(f"DELETE FROM gearman_queue WHERE {MARKED}")
    for statement in SCHEMA:
        db.execute(statement)
    # no other row has such a name, nor has one from an earlier start
    db.execute("INSERT INTO gm_prefix VALUES (?)", (f"{os.urandom(12).hex()}-",))
