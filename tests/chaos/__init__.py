"""Breaks everything there is to break while jobs run, and then asks an independent checker what became of them."""
