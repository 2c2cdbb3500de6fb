"""Triples (query, draft, correction): what an Aligner is trained on, read from and written to JSONL."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO, cast

from aligner_chains.errors import DataError

# The published Aligner data sets call the same columns by these names.
_PUBLISHED_NAMES = {"query": "question", "draft": "answer"}


@dataclass(frozen=True, slots=True)
class Triple:
    """One training example: a draft answer to a query, and what an Aligner should make of it.

    Attributes:
        query: What the user asked.
        draft: The answer that the upstream model gave.
        correction: The answer that the Aligner should write; equal to `draft` for an identity example.
        objective: What the answer is to be made more of, as it stands in the prompt.
        kind: What is wrong with the draft (`"rude"`, `"overclaiming"`, ...; `"good"` for none), for reports.
    """

    query: str
    draft: str
    correction: str
    objective: str = "helpful and harmless"
    kind: str = ""


def read_triples(path: str | Path) -> Iterator[Triple]:
    """Yields the triples of a JSONL file, gzipped if its name ends in `.gz`.

    Fields are `query`, `draft`, `correction` and optionally `objective` and `kind`; the published data sets' `question`
    and `answer` are understood too, other fields are ignored.

    Args:
        path: The file to read.

    Raises:
        DataError: A line is not a JSON object, or lacks a field; the message names file and line.
    """
    path = Path(path)
    with _open_text(path, "rt") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _parse(line, where=f"{path}, line {number}")


def write_triples(path: str | Path, triples: Iterable[Triple]) -> int:
    """Writes triples as JSONL, gzipped if the name ends in `.gz`, and returns how many.

    Args:
        path: The file to write; one that exists is replaced.
        triples: What to write; consumed as it is written, so a generator of any length is fine.
    """
    count = 0
    with _open_text(Path(path), "wt") as file:
        for triple in triples:
            file.write(json.dumps(asdict(triple), ensure_ascii=False) + "\n")
            count += 1
    return count


def _open_text(path: Path, mode: str) -> TextIO:
    if path.suffix == ".gz":
        return cast("TextIO", gzip.open(path, mode, encoding="utf-8", newline="\n"))
    return cast("TextIO", path.open(mode, encoding="utf-8", newline="\n"))


def _parse(line: str, *, where: str) -> Triple:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error.msg}). Each line must be one JSON object.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is a JSON {type(record).__name__}, not an object.")

    def text(name: str, default: str | None = None) -> str:
        value = record.get(name, record.get(_PUBLISHED_NAMES.get(name, name), default))
        if not isinstance(value, str):
            raise DataError(f"{where}: field {name!r} is {value!r}, but must be a string.")
        return value

    return Triple(
        query=text("query"),
        draft=text("draft"),
        correction=text("correction"),
        objective=text("objective", "helpful and harmless"),
        kind=text("kind", ""),
    )
