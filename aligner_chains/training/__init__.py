"""Training of Aligners: the embedded one from nothing, or any causal language model.

`trainer.py` runs what `config.py` describes. They are imported from their own modules, so that `synthetic/`, the
generator of the embedded Aligner's data, needs no torch.
"""
