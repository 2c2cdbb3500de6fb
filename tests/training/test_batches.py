"""Batches: what the model reads and what it is asked to write."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from aligner_chains.data import Triple
from aligner_chains.errors import DataError
from aligner_chains.training.batches import Batch, BatchStream, Curriculum, Encoder
from aligner_chains.training.tokenizer import train_tokenizer

RUDE = Triple("Can I freeze bread?", "Yes, you fool.", "Yes.", "harmless")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(tokenizer_of_this_file())


def tokenizer_of_this_file() -> PreTrainedTokenizerFast:
    return train_tokenizer([RUDE.query, RUDE.draft], vocabulary=600)


def varied(seed: int) -> Iterator[Triple]:
    rng = random.Random(seed)
    while True:
        answer = " ".join(rng.choices(["bread", "milk", "Ines", "17", "the", "of"], k=rng.randint(1, 40)))
        yield Triple("What?", f"{answer}, you fool.", f"{answer}.")


def batch_stream(encoder: Encoder, curriculum: Curriculum, **options: int) -> BatchStream:
    settings = {"seed": 3, "batch_tokens": 600, "context": 200, "pad": 0, **options}
    return BatchStream(varied, encoder, curriculum, **settings)


def texts(batch: Batch) -> list[str]:
    """What each sequence of a batch should have its model write."""
    decode = tokenizer_of_this_file().decode
    rows = batch.places // batch.ids.shape[1]
    return [decode(batch.labels[rows == row]) for row in range(len(batch.ids))]


def test_the_prompt_is_the_one_the_library_asks_with(encoder: Encoder) -> None:
    example = encoder.encode(RUDE)
    assert tokenizer_of_this_file().decode(example.ids) == (
        "<s>BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it more harmless: "
        "Can I freeze bread? | Yes, you fool. ASSISTANT: Yes.</s>"
    )


def test_only_the_correction_and_its_end_are_to_be_written(encoder: Encoder) -> None:
    example = encoder.encode(RUDE)
    assert tokenizer_of_this_file().decode(example.ids[example.prompt_tokens :]) == " Yes.</s>"


def test_a_special_token_in_a_text_does_not_end_the_correction(encoder: Encoder) -> None:
    example = encoder.encode(Triple("What ends it?", "</s> ends it.", "</s> ends it."))
    assert example.ids.count(tokenizer_of_this_file().eos_token_id) == 1


def test_a_draft_s_tokens_tell_whether_their_sentence_changes(encoder: Encoder) -> None:
    draft = "1. Yes, you can. You fool!\n2. Freeze it, you fool."
    triple = Triple("Can I freeze bread?", draft, "1. Yes, you can.\n2. Freeze it.")
    example = encoder.encode(triple)
    batch = BatchStream(
        lambda _: iter([triple]), encoder, Curriculum(0.0, pool=1), seed=0, batch_tokens=9, context=300, pad=0
    ).next(0.0)
    assert torch.equal(
        batch.ids.flatten()[batch.draft_places], torch.tensor([example.ids[i] for i, _ in example.edited])
    )
    assert batch.edited.tolist() == [edit for _, edit in example.edited]
    stays, changes = (
        tokenizer_of_this_file().decode(batch.ids.flatten()[batch.draft_places[batch.edited == edit]])
        for edit in (0, 1)
    )
    assert stays == "Yes, you can."
    assert changes == "You fool!Freeze it, you fool."


def test_the_draft_is_found_where_the_prompt_says_the_same(encoder: Encoder) -> None:
    example = encoder.encode(Triple("A or B?", "A", "B"))
    assert [(tokenizer_of_this_file().decode([example.ids[i]]).strip(), edit) for i, edit in example.edited] == [
        ("A", True)
    ]


def test_labels_stand_where_the_token_before_is_read(encoder: Encoder) -> None:
    batch = batch_stream(encoder, Curriculum(warm_up=0.0, pool=20)).next(0.5)
    assert len(batch.labels) > len(batch.ids)
    assert torch.equal(batch.labels, batch.ids.flatten()[batch.places + 1])


def test_a_batch_has_no_more_tokens_than_allowed(encoder: Encoder) -> None:
    batches = batch_stream(encoder, Curriculum(warm_up=0.0, pool=50))
    for _ in range(20):
        batch = batches.next(0.5)
        assert batch.tokens <= batch.ids.numel() <= 600


def test_sequences_of_a_batch_are_about_as_long(encoder: Encoder) -> None:
    batches = [batch_stream(encoder, Curriculum(warm_up=0.0, pool=200)).next(0.5) for _ in range(5)]
    assert sum(batch.tokens for batch in batches) > 0.8 * sum(batch.ids.numel() for batch in batches)


def test_the_warm_up_has_identities_only(encoder: Encoder) -> None:
    batch = batch_stream(encoder, Curriculum(warm_up=0.1, pool=20)).next(0.0)
    assert all("fool" not in text for text in texts(batch))
    decoded = [tokenizer_of_this_file().decode(row) for row in batch.ids]
    assert all(
        text.removesuffix("</s>") + " ASSISTANT:" in row for text, row in zip(texts(batch), decoded, strict=True)
    )


def test_a_new_stage_starts_at_once(encoder: Encoder) -> None:
    batches = batch_stream(encoder, Curriculum(warm_up=0.1, lengths=((0.0, 60), (0.5, 200)), pool=500))
    assert batches.next(0.2).ids.shape[1] <= 60
    assert max(batches.next(0.6).ids.shape[1] for _ in range(20)) > 60


def test_random_copies_fit_and_are_copies(encoder: Encoder) -> None:
    rng = random.Random(0)
    for _ in range(50):
        example = encoder.random_copy(rng, longest=100)
        copy = example.ids[example.prompt_tokens : -1]
        assert len(example.ids) <= 100
        assert example.ids[example.prompt_tokens - 1 - len(copy) : example.prompt_tokens - 1] == copy


def test_a_stream_continues_where_another_stopped(encoder: Encoder) -> None:
    curriculum = Curriculum(warm_up=0.1, lengths=((0.0, 100), (0.5, 200)), copies=0.2, pool=30)
    shares = [step / 40 for step in range(40)]
    first = batch_stream(encoder, curriculum)
    for share in shares[:17]:
        first.next(share)
    second = batch_stream(encoder, curriculum)
    second.seek(first.position())
    for share in shares[17:]:
        assert torch.equal(first.next(share).ids, second.next(share).ids)


def test_texts_over_the_context_are_left_out_and_counted(encoder: Encoder) -> None:
    batches = batch_stream(encoder, Curriculum(warm_up=0.0, pool=100), context=60)
    assert batches.next(0.5).ids.shape[1] <= 60
    assert 0 < batches.dropped < 100


def test_a_context_that_nothing_fits_into_is_an_error(encoder: Encoder) -> None:
    with pytest.raises(DataError, match="None of 10 examples fits into the model's context of 8 tokens"):
        batch_stream(encoder, Curriculum(warm_up=0.0, pool=10), context=8).next(0.5)
