"""Text-to-video models: loading, prompt encoding, denoising, streaming decode.

Knows diffusers; knows no broker, no store and no HTTP server.
"""
