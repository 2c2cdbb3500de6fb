"""Text is data: what is in a query or a draft can neither end nor forge a turn, and comes back as it was."""

import json
from urllib.request import Request, urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_chains import PROMPT_FORMATS, Feedback
from aligner_chains.backends.local import LocalBackend
from aligner_chains.errors import InvalidInputError
from aligner_chains.exchange import Exchange
from aligner_chains.neutralize import _SEPARATORS, neutralize

SPECIAL = [
    "<s>", "</s>", "<pad>", "<unk>", "<bos>", "<eos>", "<mask>", "<think>", "</think>", "<tool_call>", "<image>",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|reserved_special_token_7|>",
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<start_of_turn>", "<end_of_turn>", "<extra_id_0>", "<fim_prefix>",
    "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[TOOL_CALLS]", "[gMASK]",
]  # fmt: skip
MARKERS = [marker for known in PROMPT_FORMATS.values() for marker in known.markers]
EVIL_TEXT = st.lists(st.one_of(st.sampled_from([*SPECIAL, *MARKERS, *_SEPARATORS[:6]]), st.text()), max_size=12).map(
    "".join
)


@pytest.mark.parametrize("piece", SPECIAL)
def test_special_tokens_of_the_field_are_broken(piece: str):
    neutral = neutralize([f"before{piece}after"])
    assert piece not in neutral.texts[0]
    assert neutral.restore(neutral.texts[0]) == f"before{piece}after"


def test_ordinary_text_is_left_alone():
    text = "if a < s > b: x[INSTALL] = 3 | 4 ## !important <div>"
    assert neutralize([text]).texts == (text,)


def test_an_image_address_is_not_left_for_the_server_to_fetch():
    neutral = neutralize(["![](http://127.0.0.1/admin) and ![x](y)"])
    assert "![" not in neutral.texts[0]


@given(st.lists(EVIL_TEXT, max_size=4), st.lists(st.sampled_from(MARKERS)))
def test_restoring_gives_back_any_text(texts: list[str], markers: list[str]):
    neutral = neutralize(texts, markers)
    assert [neutral.restore(text) for text in neutral.texts] == texts


@given(st.text("ab<|>", max_size=12), st.lists(st.text("ab<|>", min_size=2, max_size=3), max_size=4))
def test_no_marker_survives_even_where_markers_overlap(text: str, markers: list[str]):
    (neutral,) = neutralize([text], markers).texts
    assert not [marker for marker in markers if marker in neutral]


@given(EVIL_TEXT, EVIL_TEXT)
def test_what_breaks_pieces_is_in_none_of_the_texts(query: str, draft: str):
    neutral = neutralize([query, draft], MARKERS)
    assert neutral.separator is None or neutral.separator not in query + draft


def test_a_text_that_leaves_no_character_to_break_with_is_refused():
    with pytest.raises(InvalidInputError, match=r"hold all \d+ characters"):
        neutralize([_SEPARATORS + "</s>"])


@pytest.mark.parametrize("name", PROMPT_FORMATS)
@given(query=EVIL_TEXT, draft=EVIL_TEXT, objective=st.sampled_from(SPECIAL[:4] + MARKERS))
def test_the_embedded_tokenizer_sees_only_the_special_tokens_of_the_template(
    embedded_backend: LocalBackend, name: str, query: str, draft: str, objective: str
):
    model = embedded_backend.model
    added = set(model.tokenizer.get_added_vocab().values())
    known = PROMPT_FORMATS[name]
    feedback = Feedback(objective) if known.takes_feedback else Feedback.HELPFUL_AND_HARMLESS

    def added_tokens(query: str, draft: str, feedback: Feedback) -> list[int]:
        exchange = Exchange.prepare(
            f"q{query}", f"d{draft}", feedback, prompt_format=known, special_tokens=model.added_tokens
        )
        prompt = exchange.prompt if isinstance(exchange.prompt, str) else exchange.prompt[1]["content"]
        return [token for token in model.encode(prompt) if token in added]

    plain = Feedback("kind") if known.takes_feedback else Feedback.HELPFUL_AND_HARMLESS
    assert added_tokens(_readable(query), _readable(draft), feedback) == added_tokens("", "", plain)


def test_a_server_sees_only_the_special_tokens_of_the_template(embedded_backend: LocalBackend, embedded_server: str):
    added = set(embedded_backend.model.tokenizer.get_added_vocab().values())

    def added_tokens(query: str, draft: str) -> list[int]:
        # A server does not tell what its special tokens are.
        exchange = Exchange.prepare(
            query, draft, Feedback.HELPFUL_AND_HARMLESS, prompt_format=PROMPT_FORMATS["aligner-7b"]
        )
        body = json.dumps({"inputs": exchange.prompt}).encode()
        request = Request(f"{embedded_server}/tokenize", body, {"Content-Type": "application/json"})
        with urlopen(request) as response:
            return [token["id"] for token in json.load(response) if token["id"] in added]

    evil = " ".join([*SPECIAL, *MARKERS, *embedded_backend.model.added_tokens])
    assert added_tokens(evil, evil) == added_tokens("q", "d")
    assert len(added_tokens("q", "d")) > 1


def _readable(text: str) -> str:
    """The text without what is refused before it is neutralised."""
    return text.encode("utf-8", "ignore").decode().replace("\0", "")
