"""What a user sees while an answer is written: the Aligner's tokens as they come, and never one of a draft."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import shapes
from hostile import Call, HostileServer, refuse, speak
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable
from upstream import CORRECTED, DRAFT, Upstream
from ways import given_out, whole

from aligner_chains import REFUSAL, Aligner
from aligner_chains.errors import GenerationError, StreamInterruptedError
from langchain_aligner import AlignerRunnable

QUESTION = "Who wrote Faust?"
PIECES = ["That", " is", " well", " known."]


def stream(chain: Runnable[Any, Any]) -> list[Any]:
    return list(chain.stream(QUESTION))


def astream(chain: Runnable[Any, Any]) -> list[Any]:
    async def read() -> list[Any]:
        return [chunk async for chunk in chain.astream(QUESTION)]

    return asyncio.run(read())


@pytest.fixture(params=[stream, astream])
def read(request: pytest.FixtureRequest) -> Callable[[Runnable[Any, Any]], list[Any]]:
    return request.param


def test_a_message_comes_in_pieces_of_itself(read: Callable[..., list[Any]], aligner: Aligner) -> None:
    usage = {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12}
    draft = AIMessage(DRAFT, id="msg_1", usage_metadata=usage, response_metadata={"model_name": "upstream-1"})
    chunks = read(Upstream(turns=(draft,)) | AlignerRunnable(aligner=aligner))
    assert [chunk.content for chunk in chunks] == [*PIECES, ""]
    assert {(type(chunk), chunk.id) for chunk in chunks} == {(AIMessageChunk, "msg_1")}
    assert [chunk.usage_metadata for chunk in chunks] == [None] * 4 + [usage]
    assert [chunk.response_metadata for chunk in chunks[:-1]] == [{}] * 4
    assert chunks[-1].response_metadata["aligner"]["outcome"] == "corrected"
    assert chunks[-1].chunk_position == "last"


def test_a_text_comes_in_pieces(read: Callable[..., list[Any]], aligner: Aligner) -> None:
    assert read(Upstream() | StrOutputParser() | AlignerRunnable(aligner=aligner)) == PIECES


def test_the_pieces_go_on_down_the_chain(read: Callable[..., list[Any]], aligner: Aligner) -> None:
    pieces = read(Upstream() | AlignerRunnable(aligner=aligner) | StrOutputParser())
    assert [piece for piece in pieces if piece] == PIECES


def test_joined_they_are_what_invoke_gives(read: Callable[..., list[Any]], aligner: Aligner) -> None:
    image = {"type": "image", "url": "https://x/y.png"}
    for content in (DRAFT, [image, {"type": "text", "text": DRAFT, "index": 7}, image]):
        chain = Upstream(turns=(AIMessage(content, id="msg_1"),)) | AlignerRunnable(aligner=aligner)
        assert whole(read(chain)).content == chain.invoke(QUESTION).content


def test_a_text_for_several_blocks_comes_at_once(read: Callable[..., list[Any]], aligner: Aligner) -> None:
    content = [{"type": "text", "text": "That is "}, {"type": "text", "text": "well known, you idiot."}]
    (chunk,) = read(Upstream(turns=(AIMessage(content, id="msg_1"),)) | AlignerRunnable(aligner=aligner))
    assert chunk.content == [{"type": "text", "text": "That is "}, {"type": "text", "text": "well known."}]


def test_a_skipped_message_comes_as_it_is(read: Callable[..., list[Any]], aligner: Aligner) -> None:
    calls = [{"name": "search", "args": {"for": "Faust"}, "id": "call_1", "type": "tool_call"}]
    chunks = read(Upstream(turns=(AIMessage("", tool_calls=calls),)) | AlignerRunnable(aligner=aligner))
    assert whole(chunks).tool_calls == calls
    assert whole(chunks).response_metadata["aligner"] == {"outcome": "skipped", "reason": "tool calls"}


@pytest.mark.parametrize("is_async", [False, True])
def test_the_first_piece_does_not_wait_for_the_last(is_async: bool, hostile: Callable[..., HostileServer]) -> None:
    seen, seen_in_time = threading.Event(), []

    async def hold_the_rest_back(call: Call) -> None:
        first, *rest = shapes.events(call.request, shapes.Answer([" That", " is", " all."]))
        await call.head(200, {"Content-Type": "text/event-stream"})
        await call.send(first)
        seen_in_time.append(await asyncio.to_thread(seen.wait, 10))
        await call.send(b"".join(rest))
        call.writer.close()

    async def read(chain: Runnable[Any, Any]) -> None:
        async for _ in chain.astream(QUESTION):
            seen.set()

    with Aligner.from_tgi(hostile(hold_the_rest_back).url) as aligner:
        chain = Upstream() | AlignerRunnable(aligner=aligner)
        if is_async:
            asyncio.run(read(chain))
        else:
            for _ in chain.stream(QUESTION):
                seen.set()
    assert seen_in_time == [True]


def test_closing_early_stops_the_server(hostile: Callable[..., HostileServer]) -> None:
    server = hostile(speak(end="hang"))
    with Aligner.from_tgi(server.url) as aligner:
        chunks = (Upstream() | AlignerRunnable(aligner=aligner)).stream(QUESTION)
        assert next(chunks).content == "That"
        chunks.close()
        assert server.dropped.wait(10)


async def test_leaving_early_stops_the_server(hostile: Callable[..., HostileServer]) -> None:
    server = hostile(speak(end="hang"))
    async with Aligner.from_tgi(server.url) as aligner:
        chunks = (Upstream() | AlignerRunnable(aligner=aligner)).astream(QUESTION)
        assert (await anext(chunks)).content == "That"
        await chunks.aclose()
        assert await asyncio.to_thread(server.dropped.wait, 10)


async def test_cancelling_stops_the_server(hostile: Callable[..., HostileServer]) -> None:
    server = hostile(speak(end="hang"))
    async with Aligner.from_tgi(server.url) as aligner:
        first = asyncio.Event()

        async def read() -> None:
            async for _ in (Upstream() | AlignerRunnable(aligner=aligner)).astream(QUESTION):
                first.set()

        reading = asyncio.create_task(read())
        await first.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        del reading  # on Python 3.10 a cancelled task keeps the frames that it was cancelled in, and so the stream
        assert await asyncio.to_thread(server.dropped.wait, 10)


@pytest.mark.parametrize("policy", ["raise", "draft", "refuse"])
def test_a_failure_in_mid_stream_says_what_was_sent(
    policy: Any, read: Callable[..., list[Any]], hostile: Callable[..., HostileServer]
) -> None:
    server = hostile(speak(end="error"))
    with Aligner.from_tgi(server.url) as aligner, pytest.raises(StreamInterruptedError, match="on fire") as caught:
        read(Upstream() | AlignerRunnable(aligner=aligner, on_failure=policy))
    assert caught.value.sent == CORRECTED


@pytest.mark.parametrize(("policy", "text"), [("draft", DRAFT), ("refuse", REFUSAL)])
def test_a_failure_before_the_first_piece_is_replaced(
    policy: Any, text: str, read: Callable[..., list[Any]], hostile: Callable[..., HostileServer]
) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner:
        answer = whole(read(Upstream() | AlignerRunnable(aligner=aligner, on_failure=policy)))
    assert answer.content == text
    assert answer.response_metadata["aligner"]["outcome"] == "failed"
    assert answer.response_metadata["aligner"]["error"]["type"] == GenerationError.__name__


async def test_events_of_the_runnable_hold_no_draft(aligner: Aligner) -> None:
    chain = Upstream() | AlignerRunnable(aligner=aligner)
    for names in (["AlignerRunnable"], ["Aligner"], ["RunnableSequence"]):
        events = [event async for event in chain.astream_events(QUESTION, version="v2", include_names=names)]
        streamed = [event["data"]["chunk"].content for event in events if event["event"].endswith("_stream")]
        assert streamed == [*PIECES, ""]
        assert events[-1]["data"]["output"].content == CORRECTED
        assert not [event for event in events if "idiot" in given_out(event)]
