"""The five stages as plain functions: artifacts in, artifacts out. No broker, no store, no HTTP."""
