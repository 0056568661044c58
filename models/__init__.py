"""Text-to-video models: loading, prompt encoding, denoising, streaming decode. Knows diffusers, no broker and no store."""
