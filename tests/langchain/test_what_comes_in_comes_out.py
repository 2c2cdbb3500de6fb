"""A text gives a text, a message the same message: what is not the answer's text stays as it is."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hostile import HostileServer
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from pydantic import BaseModel
from upstream import CORRECTED, DRAFT, Upstream
from ways import Run

from aligner_chains import Aligner
from aligner_chains.errors import InvalidTypeError
from langchain_aligner import AlignerRunnable
from langchain_aligner.messages import text_of, with_text

QUESTION = "Who wrote Faust?"
USAGE = {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12}


def a_message(content: Any = DRAFT, **fields: Any) -> AIMessage:
    return AIMessage(
        content,
        id="msg_1",
        name="bookworm",
        usage_metadata=USAGE,
        response_metadata={"model_name": "upstream-1", "logprobs": None},
        additional_kwargs={"refusal": None},
        **fields,
    )


@pytest.fixture
def runnable(aligner: Aligner) -> AlignerRunnable:
    return AlignerRunnable(aligner=aligner, query=lambda _: QUESTION)


def test_a_text(run: Run, runnable: AlignerRunnable) -> None:
    assert run(runnable, DRAFT) == CORRECTED


def test_a_message(run: Run, runnable: AlignerRunnable) -> None:
    draft = a_message()
    answer = run(runnable, draft)
    assert (answer.content, answer.id, answer.usage_metadata) == (CORRECTED, "msg_1", USAGE)
    told = answer.response_metadata.pop("aligner")
    assert (answer.response_metadata, answer.additional_kwargs) == (draft.response_metadata, draft.additional_kwargs)
    assert told.pop("latency") > 0
    assert told.pop("confidence") == 0.99
    assert told == {
        "outcome": "corrected",
        "model": "aligner/aligner-7b-v1.0",
        "edit_ratio": 0.2308,
        "usage": {"input_tokens": 11, "output_tokens": 4},
    }
    assert draft == a_message()


def test_the_name_stays(runnable: AlignerRunnable) -> None:
    assert runnable.invoke(a_message()).name == "bookworm"
    assert {chunk.name for chunk in runnable.stream(a_message())} == {"bookworm"}


def test_a_good_draft_stays(run: Run, runnable: AlignerRunnable) -> None:
    answer = run(runnable, a_message(CORRECTED))
    assert answer.content == CORRECTED
    assert answer.response_metadata["aligner"]["outcome"] == "unchanged"


def test_the_draft_is_kept_on_demand(run: Run, aligner: Aligner) -> None:
    answer = run(AlignerRunnable(aligner=aligner, query=lambda _: QUESTION, keep_draft=True), a_message())
    assert answer.response_metadata["aligner"]["draft"] == DRAFT


@pytest.mark.parametrize("draft", [DRAFT, AIMessage(DRAFT)])
def test_a_dict_gives_the_corrected_draft(draft: str | AIMessage, run: Run, aligner: Aligner) -> None:
    answer = run(AlignerRunnable(aligner=aligner), {"query": QUESTION, "draft": draft})
    assert (answer if isinstance(draft, str) else answer.content) == CORRECTED


def test_messages_give_the_last_one_corrected(run: Run, aligner: Aligner) -> None:
    messages = [HumanMessage(QUESTION), a_message()]
    for value in (messages, tuple(messages), ChatPromptValue(messages=messages)):
        answer = run(AlignerRunnable(aligner=aligner), value)
        assert (answer.content, answer.id) == (CORRECTED, "msg_1")


def test_a_chunk_gives_a_chunk(runnable: AlignerRunnable) -> None:
    answer = runnable.invoke(AIMessageChunk(content=DRAFT, id="msg_1"))
    assert (type(answer), answer.content) == (AIMessageChunk, CORRECTED)


CALL = {"name": "search", "args": {"for": "Faust"}, "id": "call_1", "type": "tool_call"}


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (AIMessage(DRAFT, id="msg_1", tool_calls=[CALL]), "tool calls"),
        (
            AIMessage("", id="msg_1", invalid_tool_calls=[{**CALL, "args": "{", "type": "invalid_tool_call"}]),
            "tool calls",
        ),
        (AIMessage('{"a": 1}', id="msg_1", additional_kwargs={"parsed": {"a": 1}}), "structured output"),
        (AIMessage("", id="msg_1"), "no text"),
        (AIMessage([{"type": "image", "url": "https://x/y.png"}], id="msg_1"), "no text"),
    ],
    ids=["tool-calls", "invalid-tool-calls", "parsed", "empty", "image"],
)
def test_what_is_no_answer_yet_passes(
    draft: AIMessage, reason: str, run: Run, aligner: Aligner, server: HostileServer
) -> None:
    answer = run(AlignerRunnable(aligner=aligner), draft)  # no question is needed
    assert answer.response_metadata.pop("aligner") == {"outcome": "skipped", "reason": reason}
    assert answer == draft
    assert server.requests == []


def test_a_blank_text_passes(run: Run, aligner: Aligner) -> None:
    assert run(AlignerRunnable(aligner=aligner), " ") == " "


class Answer(BaseModel):
    text: str


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (7, "not int"),
        (None, "not NoneType"),
        (Answer(text=DRAFT), "not Answer"),
        (HumanMessage(DRAFT), "not HumanMessage"),
        ({"answer": DRAFT}, "with the keys ['answer']"),
        ({"query": QUESTION, "draft": 7}, "not int as the draft"),
        ([], "not list"),
        ([DRAFT], "not list"),
        ([HumanMessage(QUESTION)], "not messages that end in HumanMessage"),
        (StringPromptValue(text=DRAFT), "end in HumanMessage"),
    ],
)
def test_anything_else_is_named(value: Any, named: str, run: Run, aligner: Aligner) -> None:
    with pytest.raises(InvalidTypeError, match=re.escape(named)) as caught:
        run(AlignerRunnable(aligner=aligner), value)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("query", [7, [DRAFT], {"a": 1}])
def test_a_query_that_is_none(query: Any, aligner: Aligner) -> None:
    with pytest.raises(InvalidTypeError, match="A query must be a text or messages"):
        AlignerRunnable(aligner=aligner).invoke({"query": query, "draft": DRAFT})


THINKING = {"type": "reasoning", "reasoning": "Hm."}
IMAGE = {"type": "image", "url": "https://x/y.png"}
SEARCH = {"type": "server_tool_call", "name": "web_search", "args": {"query": "Faust"}, "id": "call_1"}
FOUND = {"type": "server_tool_result", "tool_call_id": "call_1", "status": "success", "output": ["Goethe, you idiot"]}


def test_blocks_that_are_not_text_stay_in_place(run: Run, runnable: AlignerRunnable) -> None:
    annotations = [{"type": "citation", "url": "https://x", "start_index": 0, "end_index": 4}]
    text = {"type": "text", "text": DRAFT, "index": 1, "annotations": annotations}
    answer = run(runnable, a_message([THINKING, SEARCH, FOUND, text, IMAGE]))
    # A place in the old text is none in the new one.
    changed = {**text, "text": CORRECTED, "annotations": [{"type": "citation", "url": "https://x"}]}
    assert answer.content == [THINKING, SEARCH, FOUND, changed, IMAGE]


def test_texts_as_blocks(run: Run, runnable: AlignerRunnable) -> None:
    assert run(runnable, a_message([THINKING, DRAFT])).text == CORRECTED


def test_each_text_block_keeps_its_part(run: Run, runnable: AlignerRunnable) -> None:
    content = [
        {"type": "text", "text": "That is "},
        THINKING,
        {"type": "text", "text": "well known, you idiot.", "citations": [{"cited_text": "x"}]},
        {"type": "text", "text": ""},
    ]
    corrected = {"type": "text", "text": "well known.", "citations": [{"cited_text": "x"}]}
    assert run(runnable, a_message(content)).content == [content[0], THINKING, corrected, content[3]]


def test_a_block_of_which_nothing_is_left_goes() -> None:
    content = [{"type": "text", "text": "You idiot. "}, IMAGE, {"type": "text", "text": "It is Goethe."}]
    assert with_text(content, "It is Goethe.") == [IMAGE, content[2]]


BLOCKS = st.lists(st.one_of(st.just(IMAGE), st.text().map(lambda text: {"type": "text", "text": text})))


@given(content=BLOCKS, text=st.text(min_size=1))
def test_whatever_the_blocks_the_text_arrives(content: list[Any], text: str) -> None:
    if text_of(content):
        changed = with_text(content, text)
        assert text_of(changed) == text
        assert [block for block in changed if block == IMAGE] == [block for block in content if block == IMAGE]


@given(content=BLOCKS)
def test_the_same_text_changes_nothing(content: list[Any]) -> None:
    assert with_text(content, text_of(content)) == content


def test_a_message_of_a_streaming_model(run: Run, aligner: Aligner) -> None:
    chain = Upstream(turns=(a_message(),)) | AlignerRunnable(aligner=aligner)
    answer = run(chain, QUESTION)
    assert (answer.content, answer.id, answer.usage_metadata) == (CORRECTED, "msg_1", USAGE)
    assert answer.response_metadata["model_name"] == "upstream-1"
