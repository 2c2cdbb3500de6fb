"""Where an Aligner's model runs: behind a server, or in this process.

The backends are imported from their own modules, so that one is paid for only where it is used.
"""
