"""The notebooks run without a network, and what they keep is what they show."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=[path.name for path in NOTEBOOKS])
def notebook(request: pytest.FixtureRequest) -> Any:
    return nbformat.read(request.param, as_version=4)


def kinds_of_output(notebook: Any) -> dict[str, set[str]]:
    """What each cell shows, by its id; not in which words, which are the model's affair."""
    return {
        cell.id: {" ".join([output.output_type, *sorted(output.get("data", ()))]) for output in cell.outputs}
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def test_it_runs_and_shows_what_it_keeps(notebook: Any, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "notebooks" / "documents", tmp_path / "documents")
    executed = copy.deepcopy(notebook)
    NotebookClient(executed, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert_clean(executed)
    assert kinds_of_output(executed) == kinds_of_output(notebook)


def test_what_it_keeps_is_clean(notebook: Any) -> None:
    assert_clean(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def assert_clean(notebook: Any) -> None:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    for place in (ROOT, Path.home(), "site-packages"):
        assert str(place) not in str(outputs)
