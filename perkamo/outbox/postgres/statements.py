"""The SQL of the store. ``{schema}`` stands for the schema; each script is run in one READ COMMITTED transaction.

Claims go in the order of ids, from ``low`` on, which only saves time: ids do not become visible in their order. The
condition of a claim stands again on the locked row, which may be another version than the one that was found.
"""

from typing import Final

from perkamo.postgres import DURABLE

_LEASE: Final = """,
chosen AS (
  SELECT space, id FROM (
    SELECT space, id, size, most, first_value(most) OVER (ORDER BY id) AS first_most,
      row_number() OVER same AS number, sum(size) OVER same AS total
    FROM (SELECT *, (%(sizes)s::integer[])[least(failures + 1, %(last)s)] AS most FROM free) AS sized
    WINDOW same AS (PARTITION BY most ORDER BY id)
  ) AS counted
  WHERE most = first_most AND number <= most AND (number = 1 OR total <= %(max_bytes)s)
)
UPDATE {schema}.events AS e
SET token = %(token)s, leased_until = statement_timestamp() + %(seconds)s * interval '1 second'
FROM chosen
WHERE e.space = chosen.space AND e.id = chosen.id AND e.leased_until <= statement_timestamp()
RETURNING e.id, e.transaction_id, e.body, e.failures, e.space, e.trace_context
"""

_NOT_PAUSED: Final = """NOT EXISTS (
  SELECT FROM {schema}.spaces WHERE space = ANY (%(spaces)s) AND paused_until > statement_timestamp()
)"""

# Where the application commits asynchronously, a crash would undo orders whose events have been sent already, were a
# claim not durable: with it is on disk all that was committed before it.
CLAIM: Final = f"""{DURABLE}
WITH free AS MATERIALIZED (
  SELECT found.* FROM unnest(%(spaces)s::text[], %(lows)s::bigint[]) AS wanted(space, low) CROSS JOIN LATERAL (
    SELECT space, id, failures, octet_length(body) AS size FROM {{schema}}.events
    WHERE space = wanted.space AND id >= wanted.low AND leased_until <= statement_timestamp()
    ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
  ) AS found
  WHERE {_NOT_PAUSED}
){_LEASE}"""

HEADS: Final = f"""
WITH RECURSIVE heads AS (
  (SELECT customer, id, leased_until, 1 AS number FROM {{schema}}.events
   WHERE space = %(space)s AND customer > %(cursor)s ORDER BY customer, id LIMIT 1)
  UNION ALL
  SELECT later.customer, later.id, later.leased_until, heads.number + 1 FROM heads CROSS JOIN LATERAL (
    SELECT customer, id, leased_until FROM {{schema}}.events
    WHERE space = %(space)s AND customer > heads.customer ORDER BY customer, id LIMIT 1
  ) AS later
  WHERE heads.number < %(most)s
)
SELECT customer, id, leased_until <= statement_timestamp() FROM heads WHERE {_NOT_PAUSED} ORDER BY number
"""
"""The oldest event of each customer behind the cursor, by one look into the index for each."""

CLAIM_HEADS: Final = f"""{DURABLE}
WITH free AS MATERIALIZED (
  SELECT space, id, failures, octet_length(body) AS size FROM {{schema}}.events
  WHERE space = %(space)s AND id = ANY (%(ids)s) AND leased_until <= statement_timestamp() AND {_NOT_PAUSED}
  ORDER BY id FOR UPDATE SKIP LOCKED
){_LEASE}"""

HAS_ANY: Final = "SELECT EXISTS (SELECT FROM {schema}.events WHERE space = ANY (%(spaces)s))"

WAITING: Final = f"""
SELECT coalesce(extract(epoch FROM max(paused_until) - statement_timestamp()), 0)::float8
FROM {{schema}}.spaces WHERE space = ANY (%(spaces)s) AND paused_until > statement_timestamp();
SELECT count(*), extract(epoch FROM min(greatest(leased_until, statement_timestamp())) - statement_timestamp())::float8
FROM {{schema}}.events WHERE space = ANY (%(spaces)s) AND {_NOT_PAUSED};
WITH RECURSIVE others AS (
  (SELECT space FROM {{schema}}.events ORDER BY space LIMIT 1)
  UNION ALL
  SELECT (SELECT e.space FROM {{schema}}.events AS e WHERE e.space > others.space ORDER BY e.space LIMIT 1)
  FROM others WHERE others.space IS NOT NULL
)
SELECT EXISTS (SELECT FROM others WHERE space <> ALL (%(spaces)s));
SELECT id, transaction_id, ''::bytea, failures FROM {{schema}}.events WHERE space = ANY (%(spaces)s) AND token < 0
  AND leased_until > statement_timestamp() ORDER BY token DESC, id LIMIT 1
"""
"""How long a pause lasts, and, where there is none, how many events wait, whether others do, and which stands back."""

SETTLE: Final = "SET LOCAL synchronous_commit = off"
"""What is settled and undone by a crash is sent again, and counts once."""

DELIVERED: Final = """
WITH gone AS (
  DELETE FROM {schema}.events WHERE transaction_id = ANY (%(delivered)s) AND token = %(token)s RETURNING 1
)
INSERT INTO {schema}.deliveries (space, events) SELECT %(space)s, count(*) FROM gone HAVING count(*) > 0
"""

DEAD: Final = """
WITH gone AS (
  DELETE FROM {schema}.events AS e USING unnest(%(dead)s::text[], %(reasons)s::text[]) AS d(transaction_id, reason)
  WHERE e.transaction_id = d.transaction_id AND e.token = %(token)s
  RETURNING e.*, d.reason
)
INSERT INTO {schema}.dead_letters AS d (space, transaction_id, customer, put_at, trace_context, reason, body)
SELECT CASE WHEN space = '' AND %(accepted)s THEN %(space)s ELSE space END,
  transaction_id, customer, put_at, trace_context, reason, body
FROM gone ORDER BY id
ON CONFLICT (transaction_id) DO UPDATE SET space = excluded.space, customer = excluded.customer,
  put_at = excluded.put_at, died_at = excluded.died_at, trace_context = excluded.trace_context,
  reason = excluded.reason, body = excluded.body
"""

LATER: Final = """
UPDATE {schema}.events AS e
SET token = CASE WHEN %(stands_back)s THEN -extract(epoch FROM statement_timestamp()) * 1000000 ELSE 0 END,
  failures = l.failures, leased_until = statement_timestamp() + l.seconds * interval '1 second',
  space = CASE WHEN e.space = '' AND %(accepted)s THEN %(space)s ELSE e.space END
FROM unnest(%(later)s::text[], %(failures)s::integer[], %(waits)s::float8[]) AS l(transaction_id, failures, seconds)
WHERE e.transaction_id = l.transaction_id AND e.token = %(token)s
"""

DUE: Final = """
WITH put_off AS (
  SELECT space, id FROM {schema}.events JOIN unnest(%(due)s::text[], %(due_failures)s::integer[])
    AS d(transaction_id, failures) USING (transaction_id, failures)
  WHERE token <= 0 AND leased_until > statement_timestamp() FOR UPDATE OF events SKIP LOCKED
)
UPDATE {schema}.events AS e SET leased_until = statement_timestamp()
FROM put_off WHERE e.space = put_off.space AND e.id = put_off.id
"""

NOTE: Final = """
INSERT INTO {schema}.spaces AS s (space, error, error_at, retry_at, paused_until)
SELECT %(space)s, %(error)s, CASE WHEN %(error)s IS NOT NULL THEN statement_timestamp() END,
  CASE WHEN %(error)s IS NOT NULL THEN statement_timestamp() + %(retry_in)s * interval '1 second' END,
  CASE WHEN %(pause)s > 0 THEN statement_timestamp() + %(pause)s * interval '1 second' ELSE '-infinity' END
ON CONFLICT (space) DO UPDATE SET error = coalesce(excluded.error, s.error),
  error_at = coalesce(excluded.error_at, s.error_at), retry_at = coalesce(excluded.retry_at, s.retry_at),
  paused_until = greatest(excluded.paused_until, s.paused_until)
"""

SUM_UP: Final = """
WITH picked AS (
  SELECT ctid FROM {schema}.deliveries WHERE at < statement_timestamp() - interval '1 minute' FOR UPDATE SKIP LOCKED
),
old AS (DELETE FROM {schema}.deliveries AS d USING picked WHERE d.ctid = picked.ctid RETURNING d.space, d.at, d.events)
INSERT INTO {schema}.deliveries (space, at, events) SELECT space, max(at), sum(events) FROM old GROUP BY space
"""

_GIVEN: Final = """
WITH given AS (
  SELECT * FROM unnest(%(ids)s::text[], %(customers)s::text[], %(bodies)s::bytea[], %(contexts)s::text[])
    WITH ORDINALITY AS one(transaction_id, customer, body, trace_context, number)
)"""

ADD: Final = f"""{DURABLE}{_GIVEN}
INSERT INTO {{schema}}.events (space, transaction_id, customer, body, trace_context)
SELECT %(space)s, transaction_id, customer, body, trace_context FROM given
WHERE NOT EXISTS (SELECT FROM {{schema}}.dead_letters AS d WHERE d.transaction_id = given.transaction_id)
ORDER BY number ON CONFLICT (transaction_id) DO NOTHING;
{_GIVEN}
SELECT given.transaction_id, kept.body = given.body FROM given JOIN (
  SELECT transaction_id, body FROM {{schema}}.events UNION ALL SELECT transaction_id, body FROM {{schema}}.dead_letters
) AS kept ON kept.transaction_id = given.transaction_id COLLATE "C"
"""
"""What another store forgets when this has returned, and so is durable. It returns what is there now, and whether that
is equal. What is not may have been there before, and been delivered or undone meanwhile."""

COUNT: Final = """
SELECT (SELECT coalesce(sum(events), 0)::bigint FROM {schema}.deliveries), waiting.number, dead.number,
  waiting.size + dead.size
FROM (SELECT count(*) AS number, coalesce(sum(octet_length(body)), 0)::bigint AS size FROM {schema}.events) AS waiting,
  (SELECT count(*) AS number, coalesce(sum(octet_length(body)), 0)::bigint AS size FROM {schema}.dead_letters) AS dead
"""

SPACES: Final = """
WITH waiting AS (SELECT space, count(*) AS number, min(put_at) AS oldest FROM {schema}.events GROUP BY space),
delivered AS (
  SELECT space, max(at) AS last, sum(events) FILTER (WHERE at > statement_timestamp() - interval '1 minute') AS recent
  FROM {schema}.deliveries GROUP BY space
)
SELECT space, coalesce(w.number, 0)::bigint,
  greatest(0, extract(epoch FROM statement_timestamp() - w.oldest))::float8, d.last, coalesce(d.recent, 0)::bigint,
  s.error, s.error_at, s.error_at > coalesce(d.last, '-infinity'),
  CASE WHEN greatest(s.retry_at, s.paused_until) > statement_timestamp() THEN greatest(s.retry_at, s.paused_until) END
FROM waiting AS w FULL JOIN delivered AS d USING (space) FULL JOIN {schema}.spaces AS s USING (space) ORDER BY space
"""
"""An error is over once the service has answered for an event after it; then no relay writes that it is."""

STATS: Final = f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; {COUNT};{SPACES}"
"""Both of one moment: under READ COMMITTED each statement sees what was committed before it."""

WAITING_EVENTS: Final = """
SELECT transaction_id, body, space, put_at, failures, id FROM {schema}.events
WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
"""

DEAD_LETTERS: Final = """
SELECT transaction_id, body, reason, id FROM {schema}.dead_letters WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
"""

REQUEUE: Final = """
WITH picked AS (
  SELECT id FROM {schema}.dead_letters WHERE %(id)s::text IS NULL OR transaction_id = %(id)s
  ORDER BY id LIMIT %(limit)s FOR UPDATE
),
back AS (DELETE FROM {schema}.dead_letters AS d USING picked WHERE d.id = picked.id RETURNING d.*),
kept AS (
  INSERT INTO {schema}.events (space, transaction_id, customer, put_at, trace_context, body)
  SELECT space, transaction_id, customer, put_at, trace_context, body FROM back ORDER BY id
  ON CONFLICT (transaction_id) DO NOTHING RETURNING 1
)
SELECT (SELECT count(*) FROM back), (SELECT count(*) FROM kept)
"""

_REBIND: Final = """
UPDATE {schema}.dead_letters SET space = %(space)s WHERE WHICH;
WITH picked AS (SELECT space, id FROM {schema}.events WHERE WHICH ORDER LIMIT %(limit)s FOR UPDATE),
moved AS (
  UPDATE {schema}.events AS e SET space = %(space)s FROM picked
  WHERE e.space = picked.space AND e.id = picked.id RETURNING 1
)
SELECT count(*) FROM moved
"""
REBIND_ONE: Final = _REBIND.replace("WHICH", "space = %(former)s").replace("ORDER", "ORDER BY id")
REBIND_ALL: Final = _REBIND.replace(
    "WHICH", "(space = '' OR starts_with(space, 'key:')) AND space <> %(space)s"
).replace("ORDER", "")
