"""Several processes that serve as one sidecar, and the one that starts and watches them: `server.workers`."""
