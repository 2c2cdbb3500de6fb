"""The embedded server keeps to its specification, whatever is thrown at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import (
    ensure_resource_availability,
    ignored_auth,
    missing_required_header,
    positive_data_acceptance,
    use_after_free,
)

from aligner_chains.backends.local import LocalBackend
from aligner_chains.server import Limits
from aligner_chains.testing import serve_embedded

pytestmark = pytest.mark.slow

specification = schemathesis.openapi.from_path(Path(__file__).parent / "openapi.json")

NOT_HERE = [
    positive_data_acceptance,  # TGI refuses values that its types allow: a `temperature` of 0, a prompt too long
    use_after_free,  # nothing is created, so
    ensure_resource_availability,  # nothing can be deleted either
    ignored_auth,  # this server has no key; test_refusals has one that has
    missing_required_header,  # none is required but the content type, which a JSON body brings along
]


@pytest.fixture(scope="module")
def short_url(embedded_backend: LocalBackend) -> Iterator[str]:
    """The embedded server, kept short: most of what it is asked for here makes it ramble."""
    with serve_embedded(backend=embedded_backend, limits=Limits(max_total_tokens=48)) as address:
        yield address


@specification.parametrize()
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_specified(case: schemathesis.Case, short_url: str) -> None:
    case.call_and_validate(base_url=short_url, excluded_checks=NOT_HERE)
