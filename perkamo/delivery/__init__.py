"""Getting many events there: batches of what waits together, streams of any length, and an outbox that survives."""
