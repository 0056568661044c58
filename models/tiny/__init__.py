"""The bundled miniature text-to-video model: weights, prompt understanding and how it was trained."""
