"""Data for Aligners: triples on disk."""

from aligner_chains.data.triples import Triple, read_triples, write_triples

__all__ = ["Triple", "read_triples", "write_triples"]
