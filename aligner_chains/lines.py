"""Pairs on standard input, corrections on standard output: a JSON object a line, in the same order."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from anyio import to_thread

from aligner_chains.aligner import Aligner
from aligner_chains.concurrency import map_ordered
from aligner_chains.correction import Correction
from aligner_chains.errors import AlignerError, InvalidInputError

_UNKNOWN_WITHOUT_A_CORRECTION = ("text", "changed", "edit_ratio", "latency")


async def correct_lines(aligner: Aligner, limit: int) -> bool:
    """Corrects the pairs on standard input; whether all of them came through.

    Args:
        aligner: What corrects them.
        limit: How many at a time.
    """

    async def correct_line(line: str) -> dict[str, Any]:
        record: dict[str, Any] = {}
        try:
            record = _parse(line)
            if not {"query", "draft"} <= record.keys():
                raise InvalidInputError(f'A line must have "query" and "draft", but is {_shown(line)}.')
            correction = await aligner.acorrect(record["query"], record["draft"], feedback=record.get("feedback"))
            return _result(record, correction.to_dict())
        except AlignerError as error:
            told = Correction(text="", draft="", query="", outcome="failed", error=error).to_dict()
            given = {name: record.get(name) for name in ("query", "draft")}
            return _result(record, told | dict.fromkeys(_UNKNOWN_WITHOUT_A_CORRECTION) | given)

    all_well = True
    async for result in map_ordered(correct_line, _stdin_lines(), limit=limit):
        print(json_line(result), flush=True)
        all_well = all_well and result["text"] is not None
    return all_well


def _result(record: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """What is told of a line's correction, with all that the line holds besides."""
    own = {name: value for name, value in record.items() if name not in ("query", "draft")}
    hidden = {name: own.pop(name) for name in (*told, "input") if name in own}
    return own | told | ({"input": hidden} if hidden else {})


async def _stdin_lines() -> AsyncIterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        # A byte that is not UTF-8 is a mistake of its line, not the end of all lines.
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
    while line := await to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        if line.strip():
            yield line


def json_line(value: object) -> str:
    """A line of JSON; escaped where it holds what standard output cannot show, as lone surrogates."""
    line = json.dumps(value, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return line


def _parse(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"This line is not JSON ({error}): {_shown(line)}.") from error
    if not isinstance(record, dict):
        raise InvalidInputError(f"A line must be a JSON object, but is {_shown(line)}.")
    return record


def _shown(line: str) -> str:
    return repr(line.strip()[:60])
