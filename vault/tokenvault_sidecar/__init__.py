"""The token vault sidecar: keeps delegated tokens safe and fresh, for only who may have them."""
