"""The outbox in the application's own PostgreSQL."""
