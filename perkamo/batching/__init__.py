"""Many events in few requests: the batcher, bulk emitting, and what splits a batch that was refused."""
