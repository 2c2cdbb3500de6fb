"""The embedded Aligner's tokenizer: byte-level BPE, trained on the texts that the model is trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from aligner_chains.data import Triple
from aligner_chains.errors import ConfigurationError
from aligner_chains.prompts import PROMPT_FORMATS

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNK)

# The fixed parts of the prompt around objective, query and draft; as single tokens they cost two positions, not forty.
_HEADER, _, _AFTER_OBJECTIVE = PROMPT_FORMATS["aligner-7b"].template.partition(" {objective}")
_FOOTER = _AFTER_OBJECTIVE.rpartition("{draft}")[2]
PROMPT_TOKENS = (_HEADER, _FOOTER)

# Two digits a token, counted from the left: few enough that all are in the vocabulary, so that every number is cut the
# same way, and long enough that the tokens before a digit seldom repeat within a text.
_DIGIT_GROUP = r" ?\p{N}{1,2}"
_GROUPS_PER_PASS = 400


def train_tokenizer(texts: Iterable[str], *, vocabulary: int = 4096, context: int = 1024) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary fits the texts.

    Any text comes back from it byte for byte: what has no token of its own is spelled in bytes. It puts `<s>` before a
    text, and the fixed parts of the `aligner-7b` prompt are one token each.

    Args:
        texts: What to learn the vocabulary from; tens of thousands of short texts are enough.
        vocabulary: Number of tokens, special ones and the prompt's included.
        context: Length in tokens that the model can read, noted in the tokenizer's settings.

    Raises:
        ConfigurationError: The vocabulary has no room for the 256 bytes, the digits and the fixed tokens.
    """
    alphabet = ByteLevel.alphabet()
    fixed = len(SPECIAL_TOKENS) + len(PROMPT_TOKENS) + len(alphabet) + len(set(_digit_groups()))
    if vocabulary < fixed:
        raise ConfigurationError(f"A vocabulary of {vocabulary!r} is too small: bytes, digits and prompt need {fixed}.")
    core = Tokenizer(BPE())
    core.pre_tokenizer = Sequence(
        [Split(Regex(_DIGIT_GROUP), behavior="isolated"), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    core.decoder = ByteLevelDecoder()
    core.train_from_iterator(
        _with_digit_groups(texts),
        BpeTrainer(
            vocab_size=vocabulary - len(PROMPT_TOKENS),
            special_tokens=list(SPECIAL_TOKENS),
            # Sorted, as the order of a set differs from run to run and would decide the ids.
            initial_alphabet=sorted(alphabet),
            min_frequency=2,
            show_progress=False,
        ),
    )
    return finish_tokenizer(core, context=context)


def finish_tokenizer(core: Tokenizer, *, context: int) -> PreTrainedTokenizerFast:
    """A tokenizer with the tokens and settings of an embedded Aligner's.

    Args:
        core: A byte-level BPE tokenizer whose first tokens are `SPECIAL_TOKENS`.
        context: Length in tokens that the model can read, noted in the tokenizer's settings.
    """
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    core.add_tokens([AddedToken(token, normalized=False) for token in PROMPT_TOKENS])
    core.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        model_max_length=context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def tokenizer_texts(triples: Iterable[Triple]) -> Iterator[str]:
    """The texts of triples as they stand in a prompt, each with its leading space."""
    for triple in triples:
        yield f" {triple.objective}:"
        yield f" {triple.query} |"
        yield f" {triple.draft}"
        if triple.correction != triple.draft:
            yield f" {triple.correction}"


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes a trained tokenizer so that transformers 4 and 5 and Text Generation Inference load it.

    Args:
        tokenizer: A tokenizer of `train_tokenizer`.
        folder: Where to write `tokenizer.json` and `tokenizer_config.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    # Written by hand: transformers 5 would name a class here that transformers 4 does not have.
    settings = {
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": tokenizer.model_max_length,
        "pad_token": PAD,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNK,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _digit_groups() -> Iterator[str]:
    for space in ("", " "):
        for digits in (1, 2):
            yield from (f"{space}{number:0{digits}d}" for number in range(10**digits))


def _with_digit_groups(texts: Iterable[str]) -> Iterator[str]:
    # Often enough that each group is merged before the rarest words are.
    for _ in range(_GROUPS_PER_PASS):
        yield from _digit_groups()
    yield from texts
