"""Ten one-line bugs in the stages, each of which the stages' unit tests must catch: `python -m tests.mutations`."""
