"""The customer stream (preview): subscription, reconnects, tokens and the event-stream parser."""
