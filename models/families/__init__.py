"""One adapter per family of diffusers pipelines; `base` says what an adapter does."""
