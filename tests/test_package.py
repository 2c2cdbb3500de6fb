"""The package as a whole: what an import costs, and what it offers."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import aligner_chains

HEAVY = {"langchain_core", "llama_index", "numpy", "pydantic", "tokenizers", "torch", "transformers", "typer"}
PACKAGES = [
    "aligner_chains",
    "langchain_aligner",
    "llama_index_aligner",
    *(found.name for found in pkgutil.walk_packages(aligner_chains.__path__, "aligner_chains.") if found.ispkg),
]


def modules_after(code: str) -> set[str]:
    """The top-level modules that are loaded once the code has run in a fresh process."""
    script = f"import sys; {code}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def test_the_import_is_light():
    loaded = modules_after("import aligner_chains, aligner_chains.errors")
    assert "aligner_chains" in loaded
    assert not loaded & (HEAVY | {"aiohttp", "rich"})


def test_an_aligner_behind_a_server_needs_neither_torch_nor_a_framework():
    code = """
from aligner_chains import Aligner
for make in (Aligner.from_tgi, Aligner.from_openai):
    made = make('http://127.0.0.1:9', on_failure='draft').correct('What is the capital of France?', 'Paris.')
    assert made.outcome == 'failed', made"""
    loaded = modules_after(f"exec({code!r})")
    assert "aiohttp" in loaded
    assert not loaded & HEAVY


def test_llama_index_aligner_imports_neither_torch_nor_langchain():
    loaded = modules_after("import llama_index_aligner")
    assert "llama_index" in loaded
    assert not loaded & {"langchain", "langchain_core", "tokenizers", "torch", "transformers"}


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_sorted_and_complete(name: str):
    package = importlib.import_module(name)
    listed = getattr(package, "__all__", [])
    assert [missing for missing in listed if not hasattr(package, missing)] == []
    assert listed == sorted(set(listed), key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    defined_here = {
        attribute
        for attribute, value in vars(package).items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__.startswith(name.partition(".")[0])
        and attribute[0] != "_"
    }
    assert defined_here <= set(listed)


def test_the_package_says_that_it_is_typed():
    assert (Path(aligner_chains.__file__).parent / "py.typed").is_file()
