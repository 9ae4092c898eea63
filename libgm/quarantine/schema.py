"""The schema of the quarantine file, from its first version on. gm-quarantine(5) is its manual."""

from __future__ import annotations

APPLICATION_ID = 0x676D6171   # "gmaq"
# A migration takes a file from the version that is its index to the next one. It only adds: older processes go on with it.
MIGRATIONS = ("""
CREATE TABLE job (
  id INTEGER PRIMARY KEY AUTOINCREMENT,     -- never reused
  revision INTEGER NOT NULL DEFAULT 1,      -- raised by every death
  state TEXT NOT NULL,                      -- dead, or delayed: a retry waiting for its time
  key TEXT NOT NULL UNIQUE,                 -- who the job is; its unique is no name
  function NOT NULL,                        -- TEXT, or BLOB where it is not UTF-8; so are unique_ and data
  unique_ NOT NULL,
  priority TEXT NOT NULL DEFAULT 'normal',
  reason TEXT, error TEXT, stderr TEXT, exit INTEGER, signal TEXT,
  attempts INTEGER NOT NULL DEFAULT 0,
  requeues INTEGER NOT NULL DEFAULT 0,
  first_failed INTEGER, last_failed INTEGER,  -- epoch seconds
  due REAL,                                 -- epoch seconds
  servers TEXT,                             -- of the worker; whoever has the same list releases it when due
  server TEXT, handle TEXT, host TEXT, fingerprint TEXT,
  claim INTEGER,                            -- process(id) that is sending it; void when that is dead
  nonce TEXT,                               -- of the requeue under way
  payload_file TEXT,                        -- of a payload too large for a row
  data NOT NULL
);
CREATE INDEX job_function ON job(function, state);
CREATE INDEX job_unique ON job(unique_);
CREATE INDEX job_fingerprint ON job(fingerprint);
CREATE INDEX job_due ON job(due) WHERE state = 'delayed';
CREATE INDEX job_claim ON job(claim) WHERE claim IS NOT NULL;
CREATE TABLE process (                      -- ours that own starts or claims; each locks byte id of FILE-alive
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  tool TEXT NOT NULL, host TEXT NOT NULL,
  namespace INTEGER, pid INTEGER, pid_start INTEGER,
  started INTEGER NOT NULL, function, servers TEXT,
  paused_until REAL, paused_why TEXT
);
CREATE TABLE start (                        -- a row per run, ended only by its process
  process INTEGER NOT NULL, run INTEGER NOT NULL,
  identity BLOB NOT NULL,                   -- digest of function, wire unique and payload
  function NOT NULL, unique_ NOT NULL, handle TEXT, server TEXT,
  attempts INTEGER NOT NULL, started REAL NOT NULL,
  mark TEXT,                                -- released: no attempt; hung: ended by gm-reap
  PRIMARY KEY (process, run)
) WITHOUT ROWID;
CREATE INDEX start_identity ON start(identity);
CREATE TABLE audit (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  time INTEGER NOT NULL, action TEXT NOT NULL, user TEXT, host TEXT,
  job INTEGER, revision INTEGER, key TEXT, function, unique_, reason TEXT, error TEXT, fingerprint TEXT
);
CREATE INDEX audit_job ON audit(job);
""", """
-- edited: whether a requeue sent something else than had failed
ALTER TABLE audit ADD COLUMN edited INTEGER;
CREATE INDEX audit_key ON audit(key);
CREATE INDEX job_cause ON job(function, fingerprint, reason, last_failed, first_failed) WHERE state = 'dead';
""", """
-- gm-delivery(7), rule 5: the number under which the job came that died into this row, and what a claim sends
ALTER TABLE job ADD COLUMN sends INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN claim_sends INTEGER;         -- number of the sending under way; outlives its claim
ALTER TABLE job ADD COLUMN claim_digest TEXT;           -- of function, payload, priority and waiting that it sends
ALTER TABLE job ADD COLUMN payload_digest TEXT;         -- of a payload that is in a file
-- gm-delivery(7), rule 8: failures that were held, since when the job is held (epoch seconds), whether it is known to be bad
ALTER TABLE job ADD COLUMN holds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN held REAL;
ALTER TABLE job ADD COLUMN known_bad INTEGER NOT NULL DEFAULT 0;
CREATE INDEX job_held ON job(function) WHERE held IS NOT NULL;
-- gm-delivery(7), rule 6: the boot that a process was of, and whether one that never parted has made workers careful
ALTER TABLE process ADD COLUMN boot TEXT;
ALTER TABLE process ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
ALTER TABLE start ADD COLUMN key TEXT;
ALTER TABLE start ADD COLUMN settled INTEGER NOT NULL DEFAULT 0;   -- its failure is in the file, its answer may not be sent
ALTER TABLE start ADD COLUMN next BLOB;                 -- wire unique under which its retry is sent at once
ALTER TABLE audit ADD COLUMN why TEXT;
CREATE TABLE brake (                        -- a row per function
  function PRIMARY KEY NOT NULL,
  failed TEXT NOT NULL DEFAULT '[]',        -- JSON: keys of the different jobs that failed in a row
  since REAL,                               -- epoch seconds, of the outage; NULL while there is none
  why TEXT,                                 -- error of the failure that began it
  succeeded REAL,                           -- epoch seconds of the last success, written at most once a second
  next_start REAL                           -- epoch seconds before which no job is started
) WITHOUT ROWID;
CREATE TABLE pause (                        -- gm-pause: a row per function or glob
  function PRIMARY KEY NOT NULL, since REAL NOT NULL, until REAL, why TEXT, user TEXT
) WITHOUT ROWID;
CREATE TABLE tally (                        -- jobs done and failed of a function on a day (UTC)
  function NOT NULL, day TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (function, day)
) WITHOUT ROWID;
""", """
-- how many jobs there are of a function in a state; 0 where there were some. What cannot fail needs no journal of its statement:
-- so jobs may be NULL, and a job is inserted OR FAIL
CREATE TABLE kept (function NOT NULL, state TEXT NOT NULL, jobs INTEGER, PRIMARY KEY (function, state)) WITHOUT ROWID;
INSERT INTO kept SELECT function, state, count(*) FROM job GROUP BY function, state;
INSERT OR IGNORE INTO kept SELECT DISTINCT function, 'dead', 0 FROM audit WHERE function NOT NULL;
CREATE TRIGGER kept_in AFTER INSERT ON job BEGIN INSERT INTO kept VALUES (new.function, new.state, 1)
  ON CONFLICT (function, state) DO UPDATE SET jobs = jobs + 1; END;
CREATE TRIGGER kept_out AFTER DELETE ON job
  BEGIN UPDATE kept SET jobs = jobs - 1 WHERE function = old.function AND state = old.state; END;
CREATE TRIGGER kept_other AFTER UPDATE OF function, state ON job
  BEGIN INSERT INTO kept VALUES (old.function, old.state, -1), (new.function, new.state, 1)
  ON CONFLICT (function, state) DO UPDATE SET jobs = jobs + excluded.jobs; END;
CREATE INDEX job_age ON job(function, last_failed) WHERE state = 'dead';
CREATE INDEX job_payload ON job(payload_file) WHERE payload_file NOT NULL;
""")
VERSION = len(MIGRATIONS)
