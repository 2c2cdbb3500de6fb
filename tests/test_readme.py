"""The code in the README and in the docs runs, and prints what it says it prints."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_examples import CodeExample, EvalExample, find_examples

from aligner_chains.backends.local import LocalBackend
from aligner_chains.testing import serve_embedded

ROOT = Path(__file__).parent.parent
EXAMPLES = [example for example in find_examples(ROOT / "README.md", ROOT / "docs") if example.prefix == "python"]
NAMES = [f"{os.path.relpath(example.path, ROOT)}:{example.start_line}" for example in EXAMPLES]


@pytest.fixture(scope="module")
def server(embedded_backend: LocalBackend) -> Iterator[str]:
    with serve_embedded(backend=embedded_backend) as url:
        yield url


# LlamaIndex asks pydantic for what is deprecated whenever it makes an agent.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_code_in_the_documentation_runs(example: CodeExample, eval_example: EvalExample, server: str):
    # The documentation's GPU servers are played by the embedded one.
    example.source = re.sub(r"http://gpu-1:\d+", server, example.source)
    eval_example.set_config(line_length=120)
    eval_example.run_print_check(example)


def test_the_essentials_come_first():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines.index("## Without a framework") <= 60
