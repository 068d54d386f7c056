"""The httpx transport: connections, HTTP/1.1, sockets, TLS, names and proxies. Knows nothing of Perkamo."""
