"""Synthetic examples: what they promise to a training run and to an evaluation."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_chains.data.triples import Triple
from aligner_chains.errors import DataError
from aligner_chains.training import synthetic
from aligner_chains.training.synthetic import (
    DEFECTS,
    EDITS,
    KINDS,
    Kind,
    Split,
    compose,
    edits_asked,
    load_phrasings,
    read_phrasings,
    synthesize,
)
from aligner_chains.training.synthetic.phrasings import Answer, Domain, Phrasing, Theme
from aligner_chains.training.synthetic.queries import help_offer, plain_verb_phrase
from aligner_chains.training.synthetic.text import capitalize, chunks_of, gerund, is_statement, second_person

OBJECTIVES = [*EDITS, "empathetic and concise", "honest, harmless", "helpful, honest, and empathetic"]
SPLITS: tuple[Split, Split] = ("train", "held_out")
# What is only taken out.
REMOVED: list[Kind] = ["rude", "dismissive", "overclaiming", "invented_source", "rambling"]
# What a careless edit leaves behind.
DEBRIS = re.compile(r"  |\n\n\n| [,.;:!?](?=\s|$)|\.\.|,,|\{|\}|=>")

seeds = st.integers(min_value=0, max_value=2**32)


def examples(count: int, **options: object) -> list[Triple]:
    return list(islice(synthesize(**options), count))


def test_all_names_are_there():
    assert all(hasattr(synthetic, name) for name in synthetic.__all__)


def test_same_seed_same_examples_whatever_the_hash_seed():
    code = (
        "from itertools import islice; from aligner_chains.training.synthetic import synthesize; import hashlib; "
        "print(hashlib.sha256(repr(list(islice(synthesize(seed=7), 300))).encode()).hexdigest())"
    )
    here = hashlib.sha256(repr(examples(300, seed=7)).encode()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert there.stdout.strip() == here


def test_seeds_and_splits_differ():
    first, second, held_out = examples(50, seed=0), examples(50, seed=1), examples(50, seed=0, split="held_out")
    assert not set(first) & set(second)
    assert not {triple.query for triple in first} & {triple.query for triple in held_out}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_edited_if_and_only_if_asked_for(kind: Kind, objective: str, split: Split):
    rng = Random(f"{kind} {objective}")
    for _ in range(40):
        triple = compose(rng, kind=kind, objective=objective, split=split)
        assert triple.kind.split("/")[0] == kind
        assert triple.objective == objective
        assert triple.query.strip()
        assert triple.draft.strip()
        assert triple.correction.strip()
        if kind != "several":
            assert (triple.draft != triple.correction) == (kind in edits_asked(objective)), triple
        elif objective == "helpful and harmless":
            assert triple.draft != triple.correction


@given(seed=seeds, kind=st.sampled_from(KINDS), objective=st.sampled_from(OBJECTIVES), split=st.sampled_from(SPLITS))
def test_corrections_are_clean(seed: int, kind: Kind, objective: str, split: Split):
    triple = compose(Random(seed), kind=kind, objective=objective, split=split)
    for debris in DEBRIS.findall(triple.correction):
        assert debris in triple.draft, triple
    assert triple.correction == triple.correction.strip()
    assert len(triple.draft) < 2200


@given(seed=seeds, kind=st.sampled_from(REMOVED), split=st.sampled_from(SPLITS))
def test_what_is_only_removed_leaves_the_rest_as_it_is(seed: int, kind: Kind, split: Split):
    triple = compose(Random(seed), kind=kind, objective="helpful and harmless", split=split)
    # A clause may have taken the full stop with it ("..., got it?").
    draft, correction = (re.sub(r"[.?!]", "", text.lower()) for text in (triple.draft, triple.correction))
    left = iter(draft)
    offers = (help_offer(None), help_offer("x").removeprefix("I can help you x."))
    # A draft that was nothing but the defect becomes an offer; all else is the draft with a gap in it.
    if not triple.correction.endswith(offers):
        assert all(character in left for character in correction), triple


@given(seed=seeds, objective=st.sampled_from(OBJECTIVES), split=st.sampled_from(SPLITS))
def test_harmful_requests_are_refused_with_reason_and_offer(seed: int, objective: str, split: Split):
    triple = compose(Random(seed), kind="harmful", objective=objective, split=split)
    assert triple.correction.startswith("I can't help with that, because ")
    assert any(
        triple.correction.endswith(f", {reason}. {offer}")
        for reason, offer in (theme.fitting for theme in load_phrasings(split).harmful)
    )


def test_there_are_two_refusals_and_the_careful_one_is_for_self_harm():
    refusals = {
        (theme.name == "self-harm", theme.fitting) for split in SPLITS for theme in load_phrasings(split).harmful
    }
    assert len(refusals) == len({is_careful for is_careful, _ in refusals}) == 2


@given(seed=seeds, kind=st.sampled_from(["needless_refusal", "evasive"]))
def test_an_answer_that_is_none_becomes_an_offer_to_help(seed: int, kind: Kind):
    triple = compose(Random(seed), kind=kind, objective="helpful")
    assert triple.correction.startswith(("I can help you ", "I would be glad to help with this. "))


@given(seed=seeds, split=st.sampled_from(SPLITS))
def test_upset_users_get_the_empathy_of_their_theme_first(seed: int, split: Split):
    triple = compose(Random(seed), kind="cold", objective="empathetic", split=split)
    empathy = [theme.fitting[0] for theme in load_phrasings(split).upset]
    assert any(triple.correction.startswith(words) and triple.correction.endswith(triple.draft) for words in empathy)


def test_a_refusal_of_a_harmful_request_stays():
    kept = [triple for triple in examples(3000) if triple.kind == "good/refusal"]
    assert kept
    assert all(triple.draft == triple.correction for triple in kept)


def test_shares_of_a_training_run():
    triples = examples(4000)
    unchanged = sum(triple.draft == triple.correction for triple in triples) / len(triples)
    assert 0.3 < unchanged < 0.45
    assert {triple.kind.split("/")[0] for triple in triples} == set(KINDS)
    assert any(len(triple.draft) > 1000 for triple in triples)
    assert any(len(triple.draft) < 10 for triple in triples)
    assert any("\u2060" in triple.draft for triple in triples)


def test_real_text_is_copied_and_edited():
    real = [
        Triple("Who rang?", "No.", "The plumber rang. He will come on Monday. It was about the boiler."),
        Triple("I feel so lonely.", "Go out.", "You could join a choir."),
    ]
    triples = [triple for triple in examples(2000, real=real) if triple.kind.endswith("/real")]
    assert any(triple.draft.startswith("The plumber rang.") for triple in triples if triple.kind == "good/real")
    assert any(triple.draft != triple.correction for triple in triples)
    # What a kind answer to an upset user is, real text does not say.
    assert not any("lonely" in triple.query and "choir" in triple.draft for triple in triples)
    assert examples(200, real=real) == examples(200, real=real)


def test_edits_asked():
    assert edits_asked("helpful and harmless") == set(DEFECTS)
    assert edits_asked("helpful, honest and harmless") == set(DEFECTS)
    assert edits_asked("empathetic and concise") == EDITS["empathetic"] | EDITS["concise"]
    assert all("harmful" in edits for edits in EDITS.values())
    with pytest.raises(DataError, match="'witty'"):
        edits_asked("honest and witty")


def test_unknown_kind():
    with pytest.raises(DataError, match="'tedious'"):
        compose(Random(0), kind="tedious", objective="helpful")  # type: ignore[arg-type]


# The phrasings


def lines_of(split: Split) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    phrasings = load_phrasings(split)
    for field in fields(phrasings):
        for entry in getattr(phrasings, field.name):
            match entry:
                case Phrasing():
                    found.setdefault(field.name, []).append(entry.draft)
                case Answer():
                    found.setdefault(field.name, []).append(entry.question)
                case Theme():
                    found.setdefault(field.name, []).extend(entry.lines)
                case Domain():
                    found.setdefault("tasks", []).extend(entry.tasks)
                    found.setdefault("advice", []).extend(entry.advice)
                case _:
                    found.setdefault(field.name, []).append(entry)
    return found


def test_splits_share_nothing():
    train, held_out = lines_of("train"), lines_of("held_out")
    assert train.keys() == held_out.keys()
    for name, lines in held_out.items():
        assert not {line.lower() for line in lines} & {line.lower() for line in train[name]}, name


@pytest.mark.parametrize(
    ("name", "train", "held_out"),
    [
        *((kind, 300, 60) for kind in ("rude", "dismissive", "overclaiming", "invented_source", "unsafe_step")),
        *((kind, 300, 60) for kind in ("rambling", "evasive", "needless_refusal")),
        ("upset", 300, 80),
        ("harmful", 330, 90),
        ("look_alikes", 160, 90),
        ("everyday", 210, 60),
        ("tasks", 264, 72),
        ("advice", 264, 72),
        ("names", 160, 50),
        ("surnames", 120, 40),
        ("places", 120, 40),
        ("journals", 60, 20),
        ("insults", 70, 25),
    ],
)
def test_as_many_phrasings_as_promised(name: str, train: int, held_out: int):
    assert len({line.lower() for line in lines_of("train")[name]}) >= train
    assert len({line.lower() for line in lines_of("held_out")[name]}) >= held_out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with as_file(files(synthetic) / "phrasings" / "held_out") as shipped:
        return Path(shutil.copytree(shipped, tmp_path / "mine"))


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        ("rude.txt", "{}, you {animal}.", r"\{animal\}"),
        ("rude.txt", "no full stop", "final punctuation"),
        ("rude.txt", "{b}, you clown, {a}.", "a place is one"),
        ("rude.txt", "{}, and {}.", "a place is one"),
        ("rude.txt", "{a}, you clown.", "a place is one"),
        ("rude.txt", "You } clown.", "no partner"),
        ("rambling.txt", "{}, so to speak. => {}.", "has no corrections"),
        ("unsafe_step.txt", "Lick it. =>", "draft => correction"),
        ("unsafe_step.txt", "{}, then lick it. => Never lick it.", "different places"),
        ("unsafe_step.txt", "Lick it. => Ask {name}.", "a slot that the draft lacks"),
        ("evasive.txt", "{}, or not.", "whole sentences only"),
        ("harmful.txt", "steal a bike.", "no final punctuation"),
        ("harmful.txt", "# theft | because it is wrong", "2 fields"),
        ("upset.txt", "# grief", "1 fields"),
        ("names.txt", "{name}", "plain words"),
        ("everyday.md", "## A question?\n\n## Another?\nYes.", "before any answer"),
    ],
)
def test_a_malformed_line_is_named(folder: Path, name: str, line: str, problem: str):
    path = folder / name
    shipped = path.read_text(encoding="utf-8").rstrip("\n")
    path.write_text(f"{shipped}\n\n{line}\n", encoding="utf-8")
    number = shipped.count("\n") + 3 + line.count("\n\n") * 2
    with pytest.raises(DataError, match=problem) as caught:
        read_phrasings(folder)
    assert f"mine/{name}, line {number}," in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("rude.txt", "// nothing but a comment\n", "holds no phrasing"),
        ("upset.txt", "", "holds no heading"),
        ("upset.txt", "I am sad.\n# grief | I am sorry.\n", "before the first heading"),
        ("upset.txt", "# grief | I am sorry.\n", "nothing stands under 'grief'"),
        ("everyday.md", "Yes.\n", "before the first question"),
        ("everyday.md", "", "holds no question"),
        ("advice.txt", "# knitting\nCount twice.\n", "has no advice under 'cooking'"),
    ],
)
def test_a_malformed_file_is_named(folder: Path, name: str, text: str, problem: str):
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=problem) as caught:
        read_phrasings(folder)
    assert f"mine/{name}" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "line", "correction"),
    [
        ("overclaiming", "It never fails.", ""),
        ("overclaiming", "I swear that {}.", "{}."),
        ("invented_source", "{}, says Harvard.", "{}."),
        ("dismissive", "{a}, look it up, {b}.", "{a} {b}."),
        ("unsafe_step", "Lick the socket.", "Never lick the socket."),
        ("unsafe_step", "You may lick it. => Do not lick it.", "Do not lick it."),
    ],
)
def test_what_is_made_of_a_fault(folder: Path, kind: str, line: str, correction: str):
    (folder / f"{kind}.txt").write_text(f"{line}\n", encoding="utf-8")
    (phrasing,) = getattr(read_phrasings(folder), kind)
    assert phrasing.correction == correction


def test_a_missing_file_is_named(folder: Path):
    (folder / "rude.txt").unlink()
    with pytest.raises(DataError, match=r"mine/rude\.txt cannot be read"):
        read_phrasings(folder)


# English


def joined(text: str) -> str:
    return "".join(gap + marker + sentence for gap, marker, sentence in chunks_of(text))


@given(st.text(alphabet="aB1.!? \n-*\"')").map(str.strip))
def test_chunks_join_to_the_text(text: str):
    assert joined(text) == text


@pytest.mark.parametrize("split", SPLITS)
def test_shipped_answers_join_to_themselves(split: Split):
    phrasings = load_phrasings(split)
    for answer in (*phrasings.everyday, *phrasings.look_alikes):
        assert joined(answer.text) == answer.text


def test_sentences():
    text = 'Ask Dr. Weber, e.g. by mail. He said "Yes." Then go.\n1. Wash it. Dry it.\n2. Wear it.'
    assert [chunk.text for chunk in chunks_of(text)] == [
        "Ask Dr. Weber, e.g. by mail.",
        'He said "Yes."',
        "Then go.",
        "Wash it.",
        "Dry it.",
        "Wear it.",
    ]


@pytest.mark.parametrize(
    ("said", "said_back"),
    [
        ("wash my hands and dry them myself", "wash your hands and dry them yourself"),
        ("do it while I'm away and nobody sees me", "do it while you're away and nobody sees you"),
        ("send it to the US with us", "send it to the US with you"),
        ("army boots from mystery novels", "army boots from mystery novels"),
        ("find what i was missing", "find what you were missing"),
    ],
)
def test_second_person(said: str, said_back: str):
    assert second_person(said) == said_back


@pytest.mark.parametrize(
    ("phrase", "doing"),
    [
        ("steal a bike", "stealing a bike"),
        ("forge a prescription", "forging a prescription"),
        ("rob a bank", "robbing a bank"),
        ("get away with it", "getting away with it"),
        ("lie to my boss", "lying to my boss"),
        ("open a lock", "opening a lock"),
        ("flee", "fleeing"),
        ("be rude", "being rude"),
        ("quit smoking", "quitting smoking"),
        ("commit fraud", "committing fraud"),
        ("transfer it", "transferring it"),
        ("mimic a voice", "mimicking a voice"),
        ("never tell", None),
        ("grab it and run", None),
        ("3D print a gun", None),
        ("secretly film someone", None),
    ],
)
def test_gerund(phrase: str, doing: str | None):
    assert gerund(phrase) == doing


def test_statements():
    assert is_statement("The knife is sharp.")
    assert not is_statement("Sharpen the knife.")
    assert is_statement("Anna has a sharp knife.", frozenset({"Anna"}))
    assert not is_statement("Paris.", frozenset({"Paris"}))
    assert capitalize("iPhone") == "IPhone"


def test_plain_verb_phrases():
    assert plain_verb_phrase("Hi! How do I kill a Python process?") == "kill a Python process"
    assert plain_verb_phrase("how can i beat eggs") == "beat eggs"
    assert plain_verb_phrase("How do I kill weeds, and when?") is None
    assert plain_verb_phrase("What is a weed?") is None
