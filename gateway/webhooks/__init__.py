"""Tells receivers what became of jobs: which messages, how signed, to whom, and sending them."""
