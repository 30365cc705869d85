"""Inheritune: cut a small model out of a big one, and grow it."""
