"""Corrects the answers of any language model with an Aligner.

from aligner_chains import Aligner

correction = Aligner.embedded().correct("What is the capital of France?", "Paris, you idiot.")
print(correction.text)
"""

from aligner_chains.aligner import Aligner
from aligner_chains.correction import Correction, CorrectionChunk, DiffPart, Usage
from aligner_chains.errors import AlignerError
from aligner_chains.feedback import Feedback
from aligner_chains.guard import Guard
from aligner_chains.job import REFUSAL
from aligner_chains.prompts import PROMPT_FORMATS, PromptFormat
from aligner_chains.settings import Settings

__all__ = [
    "PROMPT_FORMATS",
    "REFUSAL",
    "Aligner",
    "AlignerError",
    "Correction",
    "CorrectionChunk",
    "DiffPart",
    "Feedback",
    "Guard",
    "PromptFormat",
    "Settings",
    "Usage",
]
