"""The procedural world the bundled model is trained on: captioned clips, deterministic by seed, without assets."""
