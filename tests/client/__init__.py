"""The Python client against a scripted sidecar, over real mutual TLS."""
