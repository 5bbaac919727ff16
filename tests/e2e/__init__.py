"""The whole product: the sidecar as a process, real TLS, a real file, real sockets and the real client."""
