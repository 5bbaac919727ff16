"""One scenario, played by every language's client against a real sidecar and a real authorization server.

`python -m tests.clients [LANGUAGE …]`; README.md says what a driver is.
"""
