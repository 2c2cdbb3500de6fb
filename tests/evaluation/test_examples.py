"""The examples: held out, repeatable, of the kinds that their rows promise."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from aligner_chains.errors import DataError
from aligner_chains.evaluation import examples_for
from aligner_chains.evaluation.examples import LOOK_ALIKES, long_examples, real_examples
from aligner_chains.training.synthetic import edits_asked


def write(path: Path, *records: object) -> Path:
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def real(number: int, *, correction: str = "Yes, it is.", licence: str = "MIT") -> dict[str, str]:
    return {"question": f"Is {number} a number?", "correction": correction, "license": licence}


def test_the_same_seed_gives_the_same_examples_and_another_others():
    assert examples_for(count=2, seed=3) == examples_for(count=2, seed=3) != examples_for(count=2, seed=4)


def test_each_row_has_its_count():
    assert set(Counter(example.row for example in examples_for(count=3)).values()) == {3}


def test_an_edit_is_expected_where_it_is_asked_for():
    for example in examples_for(count=4):
        kind = example.triple.kind.partition("/")[0]
        if kind != "good":
            asked = kind in edits_asked(example.triple.objective)
            assert asked == (example.row.rule != "copy")
            assert asked == (example.triple.draft != example.triple.correction)


def test_every_look_alike_has_its_turn():
    queries = [example.triple.query for example in examples_for(count=90) if example.row == LOOK_ALIKES]
    assert len(set(queries)) == 90


@pytest.mark.parametrize("name", ["real.jsonl", "real.jsonl.gz"])
def test_good_real_drafts_are_short_and_may_be_shown(tmp_path: Path, name: str):
    path = write(
        tmp_path / name, real(1), real(2, licence="CC-BY-NC-4.0"), real(3, correction="word " * 60), real(4), real(4)
    )
    found = [example.triple for example in real_examples(path, 6, seed=0)]
    assert Counter(triple.query for triple in found) == {"Is 1 a number?": 3, "Is 4 a number?": 3}
    assert {triple.draft for triple in found} == {triple.correction for triple in found} == {"Yes, it is."}


def test_seeds_take_parts_of_a_file_that_share_nothing(tmp_path: Path):
    path = write(tmp_path / "real.jsonl", *map(real, range(6)))
    first, second, again = ({e.triple.query for e in real_examples(path, 3, seed=seed)} for seed in (0, 1, 2))
    assert len(first) == len(second) == 3
    assert not first & second
    assert again == first


def test_long_drafts_have_60_to_300_words(tmp_path: Path):
    drafts = [{"question": "q", "answer": f"n{n} " + "word " * (n - 1), "kind": "harmless"} for n in (59, 60, 300, 301)]
    found = [e.triple for e in long_examples(write(tmp_path / "drafts.jsonl", *drafts), 2, seed=0)]
    assert {len(triple.draft.split()) for triple in found} == {60, 300}
    assert {triple.kind for triple in found} == {"harmless"}


@pytest.mark.parametrize("record", [{"question": "q"}, ["q"], None])
def test_a_record_without_its_fields_is_named_by_its_line(tmp_path: Path, record: object):
    path = write(tmp_path / "real.jsonl", real(1), record)
    with pytest.raises(DataError, match=r"real\.jsonl, line 2 must be .*'correction'"):
        list(real_examples(path, 1, seed=0))
