"""The Aligner that integrations use where none is given."""

from __future__ import annotations

import threading
from functools import cache

from aligner_chains.aligner import Aligner
from aligner_chains.settings import Settings

_making = threading.Lock()


def default_aligner() -> Aligner:
    """`Aligner()`, one for all that are given none: it may hold a model."""
    with _making:
        return _aligner_from(Settings.from_env())


@cache
def _aligner_from(_: Settings) -> Aligner:
    return Aligner()
