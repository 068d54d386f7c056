CREATE INDEX IF NOT EXISTS events_by_customer ON {schema}.events (space, customer, id)
