"""The embedded server: TGI's HTTP API over a model in this process.

For trying things out and for tests; for many users serve the model with TGI or vLLM.
"""

from aligner_chains.server.app import create_app, running, serve
from aligner_chains.server.validation import Limits

__all__ = ["Limits", "create_app", "running", "serve"]
