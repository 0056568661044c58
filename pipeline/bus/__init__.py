"""The event bus: workers publish, the projector and command-line clients subscribe."""
