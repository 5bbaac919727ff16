"""What those who run the sidecar look at: whether it is ready, and its figures, on a port of its own."""
