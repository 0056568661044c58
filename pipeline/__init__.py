"""The job vocabulary and everything that moves jobs: topology, broker, chain, events, store, workers."""
