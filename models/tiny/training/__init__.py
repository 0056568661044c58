"""Everything that makes the bundled weights: data, training and evaluation. Inference never imports it."""
