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


#: What a notebook shows only if drafts are corrected, by its cells' ids.
CORRECTED = {
    "langchain.ipynb": {
        "chain": "'Paris.'",
        "metadata-of-the-answer": "'outcome': 'corrected'",
        "by-itself": "'Paris.'",
        "correction": "text='Water it every morning and keep it in the sun.'",
        "feedback-per-call": "'helpful and harmless': 'Water it every morning and keep it in the sun.'",
        "stream": "Water| it| every| morning| and| keep| it| in| the| sun|.|",
        "side-by-side": '>Change</del> the socket without switching off the power.<td style="width: 22em; ',
        "agent-run": "\n\nParis.\n",
        "policies": "I can't give you a checked answer to this right now",
        "asked-and-answered": "AI: Paris, you idiot.\n\nParis.\n",
        "hidden-failure": "        Aligner (llm) BackendConnectionError(",
    },
    "llama_index_rag.ipynb": {
        "answer": "You can sew denim with the thick needle in the drawer.\n",
        "differences": "Never change the socket without switching off the power.",
        "sympathy": "I'm so sorry for your loss.",
        "stream": "| in| half| an| hour|.|\n",
        "postprocessor": "corrected: You can descale a kettle with vinegar and water.",
        "three-turns": "assistant: You can sew denim with the thick needle in the drawer.\n",
        "tool": "'outcome': 'corrected'",
        "table": '<td style="text-align: left">corrected',
    },
}


@pytest.fixture(params=NOTEBOOKS, ids=[path.name for path in NOTEBOOKS])
def path(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def name(path: Path) -> str:
    return path.name


@pytest.fixture
def notebook(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def kinds_of_output(notebook: Any) -> dict[str, set[str]]:
    """What each cell shows, by its id; not in which words, which are the model's affair."""
    return {
        cell.id: {" ".join([output.output_type, *sorted(output.get("data", ()))]) for output in cell.outputs}
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def shown(notebook: Any) -> dict[str, str]:
    """The text that each cell shows, by its id."""
    return {
        cell.id: "".join(
            output.get("text", "") + "".join(str(value) for value in output.get("data", {}).values())
            for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def without_a_correction(notebook: Any, name: str) -> list[str]:
    """The cells that should show a correction, and do not."""
    texts = shown(notebook)
    return [cell for cell, text in CORRECTED[name].items() if text not in texts[cell]]


def test_it_runs_and_shows_what_it_keeps(notebook: Any, name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "notebooks" / "documents", tmp_path / "documents")
    executed = copy.deepcopy(notebook)
    NotebookClient(executed, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert_clean(executed)
    assert kinds_of_output(executed) == kinds_of_output(notebook)
    assert without_a_correction(executed, name) == []


def test_what_it_keeps_is_clean(notebook: Any, name: str) -> None:
    assert_clean(notebook)
    assert without_a_correction(notebook, name) == []
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def assert_clean(notebook: Any) -> None:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    for place in (ROOT, Path.home(), "site-packages"):
        assert str(place) not in str(outputs)
