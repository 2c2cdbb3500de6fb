"""Synthetic training examples, composed of hand-written phrasings."""

from aligner_chains.training.synthetic.composition import Composer, compose, random_objective, synthesize
from aligner_chains.training.synthetic.objectives import DEFECTS, EDITS, KINDS, Defect, Kind, edits_asked
from aligner_chains.training.synthetic.phrasings import Phrasings, load_phrasings, read_phrasings
from aligner_chains.training.synthetic.wording import Split

__all__ = [
    "DEFECTS",
    "EDITS",
    "KINDS",
    "Composer",
    "Defect",
    "Kind",
    "Phrasings",
    "Split",
    "compose",
    "edits_asked",
    "load_phrasings",
    "random_objective",
    "read_phrasings",
    "synthesize",
]
