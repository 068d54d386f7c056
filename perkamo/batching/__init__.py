"""Many events in few requests: the batcher, bulk emitting, and splitting of refused batches."""
