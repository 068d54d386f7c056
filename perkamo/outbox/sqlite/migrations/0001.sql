PRAGMA application_id = 1346720331;
CREATE TABLE events(
  id INTEGER PRIMARY KEY,
  transaction_id TEXT NOT NULL UNIQUE,
  space TEXT NOT NULL,            -- '' until the service has accepted a key
  put_at INTEGER NOT NULL,        -- milliseconds of the wall clock
  reason TEXT,                    -- of a dead letter
  trace_context TEXT,             -- of whoever put it
  checksum INTEGER NOT NULL,      -- crc32 of the body
  body BLOB NOT NULL
);
CREATE INDEX waiting ON events(space) WHERE reason IS NULL;
CREATE INDEX dead ON events(id) WHERE reason IS NOT NULL;
CREATE TABLE leases(
  id INTEGER PRIMARY KEY,         -- of the event
  token INTEGER NOT NULL,
  holder TEXT,                    -- the lock file of the process; NULL for an event that is put off
  until REAL NOT NULL,            -- seconds since the machine was started
  failures INTEGER NOT NULL
);
CREATE TABLE spaces(
  space TEXT PRIMARY KEY,
  delivered_at INTEGER,           -- milliseconds of the wall clock
  error TEXT,
  error_at INTEGER,
  paused_until REAL NOT NULL      -- seconds since the machine was started
) WITHOUT ROWID;
CREATE TABLE deliveries(
  space TEXT NOT NULL,
  second INTEGER NOT NULL,        -- since the machine was started
  events INTEGER NOT NULL,
  PRIMARY KEY (space, second)
) WITHOUT ROWID;
CREATE TABLE counts(
  delivered INTEGER NOT NULL,
  pending INTEGER NOT NULL,
  dead INTEGER NOT NULL,
  missing INTEGER NOT NULL,
  size INTEGER NOT NULL,          -- bytes of the bodies
  predecessor TEXT NOT NULL       -- the database whose counts are in these, as its files were gone
);
INSERT INTO counts VALUES (0, 0, 0, 0, 0, '')
