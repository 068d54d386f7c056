"""One logical call: its endpoint, key and signature, attempts, classification, retries and deadline."""
