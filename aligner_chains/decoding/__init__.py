"""Decoding on local models: the only place with tensor code."""
