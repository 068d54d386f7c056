"""The httpx transport: a pool of connections, HTTP/1.1, sockets, TLS and names. Knows nothing of Perkamo."""
