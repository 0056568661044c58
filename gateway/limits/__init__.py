"""How often users may ask."""
