"""The server says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest

from aligner_chains.errors import MissingDependencyError


@pytest.mark.parametrize(("package", "module"), [("pydantic", "bodies"), ("prometheus_client", "metrics")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, package, module):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"aligner_chains.server.{module}", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'aligner-chains\[serve\]'"):
        importlib.import_module(f"aligner_chains.server.{module}")
