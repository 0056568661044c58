"""Looks into uploaded files, in a process that can reach nothing else."""
