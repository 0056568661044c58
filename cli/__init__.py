"""The `t2m` command."""
