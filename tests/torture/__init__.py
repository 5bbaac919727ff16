"""The kill test: sidecars SIGKILLed while they renew, the server's log against what they kept and served."""
