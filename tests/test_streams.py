"""Streams: cut anywhere, broken off anywhere, closed at any time."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable

import pytest
import shapes
from cases import GOOD, QUERY, RUDE, Connect, Hostile, over_openai, over_tgi
from hostile import Behaviour, Call, hang_up, reply, say, speak, too_busy
from shapes import Answer, events

from aligner_chains import REFUSAL, Aligner, Correction, CorrectionChunk, Guard
from aligner_chains.errors import (
    AlignerError,
    CorrectionTimeoutError,
    EmptyCorrectionError,
    GenerationError,
    IncompleteResponseError,
    ProtocolError,
    RequestRejectedError,
    StreamInterruptedError,
    TruncatedCorrectionError,
)

TEXT = "Zürich 🏔 \u2028one\u2029two\x85three\x0bfour\u3000five"


def joined(chunks: Iterable[CorrectionChunk]) -> str:
    """The text of all chunks, which the last one holds as a whole."""
    *others, last = chunks
    text = "".join(map(str, [*others, last]))
    assert last.correction is not None
    assert last.correction.text == text
    assert not [chunk for chunk in others if chunk.correction or not chunk.text]
    return text


def keep_texts(chunks: Iterable[CorrectionChunk], texts: list[str]) -> None:
    for chunk in chunks:
        texts.append(chunk.text)  # noqa: PERF401  # what came before it raised is wanted


def in_pieces_of(size: int) -> Callable[[bytes], Iterable[bytes]]:
    return lambda data: [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_characters_and_events_may_be_cut_between_packets(hostile: Hostile, connect: Connect, size: int):
    server = hostile(speak(*TEXT, wire=in_pieces_of(size)))
    assert joined(connect(server).stream(QUERY, RUDE)) == TEXT


@pytest.mark.parametrize(
    "wire",
    [
        lambda data: [data.replace(b"\n", b"\r\n")],
        lambda data: [b": keep-alive\n\n", data, b":\n\n"],
        lambda data: [b"event: message\nid: 7\nretry: 10\n" + data],
        lambda data: [data.replace(b"data:", b"data: ")],
    ],
    ids=["CRLF", "comments", "other fields", "a space"],
)
def test_events_may_look_otherwise(hostile: Hostile, connect: Connect, wire: Callable[[bytes], Iterable[bytes]]):
    assert joined(connect(hostile(speak(*TEXT, wire=wire))).stream(QUERY, RUDE)) == TEXT


def test_an_event_may_be_long(hostile: Hostile, connect: Connect):
    text = "word " * 60_000 + "end"
    assert joined(connect(hostile(speak(text))).stream(QUERY, RUDE)) == text


def test_a_chunk_comes_when_its_token_does(hostile: Hostile, connect: Connect):
    stream = connect(hostile(speak("One", " two", end="hang"))).stream(QUERY, RUDE)
    assert [next(stream).text, next(stream).text] == ["One", " two"]
    stream.close()


async def say_all(call: Call) -> None:
    await call.begin_stream()
    for data in events(call.request, Answer(["One", " two"])):
        await call.chunk(data)


def test_one_stream_after_another_needs_one_connection(hostile: Hostile, connect: Connect):
    async def end_later(call: Call) -> None:
        await say_all(call)
        await asyncio.sleep(0.005)  # so that the client has read the last event before the end comes
        await call.chunk(b"")

    server = hostile(for_ever=end_later)
    aligner = connect(server)
    assert joined(aligner.stream(QUERY, RUDE)) == "One two"
    before = server.connections
    for _ in range(3):
        joined(aligner.stream(QUERY, RUDE))
    assert server.connections == before


def test_a_server_need_not_end_a_stream(hostile: Hostile, connect: Connect):
    async def stay(call: Call) -> None:
        await say_all(call)
        await call.until_dropped()

    server = hostile(stay)
    assert joined(connect(server).stream(QUERY, RUDE)) == "One two"
    assert server.dropped.wait(10)


def test_a_stream_tells_what_a_whole_answer_tells(hostile: Hostile, connect: Connect):
    aligner = connect(hostile(), min_confidence=0.5)
    whole = aligner.correct(QUERY, RUDE)
    *_, last = aligner.stream(QUERY, RUDE)
    assert _told(whole) == _told(last.correction)
    assert whole.usage is not None
    assert whole.confidence == pytest.approx(last.correction.confidence) == pytest.approx(0.99, abs=0.01)


def _told(correction: Correction) -> dict[str, object]:
    return {name: value for name, value in correction.to_dict().items() if name != "latency"}


def test_a_chat_is_streamed_too(hostile: Hostile):
    server = hostile()
    aligner = over_openai(server, prompt_format="instruct", min_confidence=0.5)
    assert joined(aligner.stream(QUERY, RUDE)) == aligner.correct(QUERY, RUDE).text == GOOD
    assert [request.path for request in server.generations] == ["/v1/chat/completions"] * 2


@pytest.mark.parametrize(
    ("behaviour", "error", "message"),
    [
        (speak("", end="error"), GenerationError, "the GPU is on fire"),
        (say(b"data: not json\n\n"), ProtocolError, "streamed an event that is not JSON"),
        (say(b'data: {"text": "\xff"}\n\n'), ProtocolError, "streamed an event that is not JSON in UTF-8"),
        (say(b"data: [1]\n\n"), ProtocolError, "a shape that its protocol does not have"),
        (say(b"data: null\n\n"), ProtocolError, "a shape that its protocol does not have"),
        (say(b"data: " + b"[" * 90_000 + b"\n\n"), ProtocolError, "not JSON"),
        (reply(200, {"generated_text": GOOD}), ProtocolError, "should stream events, but answered 'application/json'"),
        (say(), IncompleteResponseError, "ended (its stream )?after 0"),
        (say(b"data: [DONE]\n\n"), IncompleteResponseError, "ended (its stream )?after 0"),
        (speak(" ", end="early"), IncompleteResponseError, "ended (its stream )?after 1"),
        (speak(""), EmptyCorrectionError, "answered with nothing"),
    ],
)
def test_a_stream_that_fails_before_its_first_text_is_a_failure_like_any_other(
    hostile: Hostile,
    connect: Connect,
    behaviour: Behaviour,
    error: type[AlignerError],
    message: str,
):
    aligner = connect(hostile(for_ever=behaviour))
    with pytest.raises(error, match=message) as caught:
        list(aligner.stream(QUERY, RUDE))
    assert type(caught.value) is error
    for policy, text in (("draft", RUDE), ("refuse", REFUSAL)):
        (chunk,) = aligner.stream(QUERY, RUDE, on_failure=policy)
        assert (chunk.text, chunk.correction.text, chunk.correction.outcome) == (text, text, "failed")
        assert type(chunk.correction.error) is error


@pytest.mark.parametrize(
    ("connect", "event", "error"),
    [
        (over_tgi, {"error": "full", "error_type": "validation"}, RequestRejectedError),
        (over_tgi, {"error": "full", "error_type": "incomplete_generation_stream"}, GenerationError),
        (over_tgi, {"error": "full"}, GenerationError),
        (over_openai, {"error": {"message": "full", "http_status_code": 422}}, RequestRejectedError),
        (over_openai, {"error": {"message": "full", "code": 400}}, RequestRejectedError),
        (over_openai, {"error": {"message": "full", "code": "context_length"}}, GenerationError),
        (over_openai, {"error": "full"}, GenerationError),
    ],
)
def test_an_error_inside_a_stream_is_what_it_says(
    hostile: Hostile, connect: Connect, event: object, error: type[AlignerError]
):
    with pytest.raises(error, match=": 'full'"):
        list(connect(hostile(say(shapes.event(event)))).stream(QUERY, RUDE))


def test_a_refusal_inside_a_stream_is_tried_again(hostile: Hostile):
    busy = say(shapes.event({"error": "Model is overloaded", "error_type": "overloaded"}))
    assert joined(over_tgi(hostile(busy)).stream(QUERY, RUDE)) == GOOD


@pytest.mark.parametrize("behaviour", [say(), speak("", end="cut"), speak("", end="early"), too_busy, hang_up])
def test_a_stream_that_dies_before_its_first_text_is_opened_again(
    hostile: Hostile, connect: Connect, behaviour: Behaviour
):
    server = hostile(behaviour)
    assert joined(connect(server).stream(QUERY, RUDE)) == GOOD
    assert len(server.generations) == 2


def test_a_chat_that_dies_after_its_role_is_opened_again(hostile: Hostile):
    server = hostile(speak("", end="cut"))
    assert joined(over_openai(server, prompt_format="instruct").stream(QUERY, RUDE)) == GOOD


@pytest.mark.parametrize("policy", ["raise", "draft", "refuse"])
@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        (speak("One", " two", end="cut"), IncompleteResponseError),
        (speak("One", " two", end="early"), IncompleteResponseError),
        (speak("One", " two", end="error"), GenerationError),
        (speak("One", " two", finish_reason="length"), TruncatedCorrectionError),
        (speak("One", " two", finish_reason="content_filter"), GenerationError),
    ],
    ids=["cut", "early", "error", "length", "filter"],
)
def test_what_fails_after_its_first_text_raises_under_every_policy_with_what_was_sent(
    hostile: Hostile, connect: Connect, behaviour: Behaviour, cause: type[Exception], policy: str
):
    server = hostile(behaviour)
    received: list[str] = []
    with pytest.raises(StreamInterruptedError, match=r"broke off after 7 characters.*'One two': ") as caught:
        keep_texts(connect(server, on_failure=policy).stream(QUERY, RUDE), received)
    assert "".join(received) == caught.value.sent == "One two"
    assert type(caught.value.__cause__) is cause
    assert len(server.generations) == 1


def test_the_deadline_ends_a_stream_that_falls_silent(hostile: Hostile, connect: Connect):
    server = hostile(speak("One", end="hang"))
    with pytest.raises(StreamInterruptedError, match="Raise timeout=") as caught:
        list(connect(server, timeout=2).stream(QUERY, RUDE))
    assert isinstance(caught.value.__cause__, CorrectionTimeoutError)
    assert server.dropped.wait(10)


def test_the_deadline_ends_a_stream_that_never_falls_silent(hostile: Hostile, connect: Connect):
    async def drip(call: Call) -> None:
        token, *_ = events(call.request, Answer(["One", " two"]))
        await call.begin_stream()
        while True:
            await call.chunk(token)
            await asyncio.sleep(0.05)

    server = hostile(drip)
    with pytest.raises(StreamInterruptedError, match="Raise timeout=") as caught:
        list(connect(server, timeout=1).stream(QUERY, RUDE))
    assert isinstance(caught.value.__cause__, CorrectionTimeoutError)
    assert caught.value.sent.startswith("OneOne")


async def test_the_time_that_a_reader_takes_does_not_count(hostile: Hostile, connect: Connect):
    go_on = threading.Event()

    async def speak_in_two(call: Call) -> None:
        first, *others = events(call.request, Answer(["One", " two"]))
        await call.begin_stream()
        await call.chunk(first)
        await asyncio.to_thread(go_on.wait)
        for event in (*others, b""):
            await call.chunk(event)

    stream = connect(hostile(speak_in_two), timeout=1).astream(QUERY, RUDE)
    assert (await anext(stream)).text == "One"
    time.sleep(1.1)  # noqa: ASYNC251  # a reader that blocks the loop, so that nothing can arrive meanwhile
    go_on.set()
    assert "".join([chunk.text async for chunk in stream]) == " two"


async def test_closing_a_stream_hangs_up(hostile: Hostile, connect: Connect):
    server = hostile(speak("One", " two", end="hang"))
    stream = connect(server).astream(QUERY, RUDE)
    await anext(stream)
    await stream.aclose()
    assert await asyncio.to_thread(server.dropped.wait, 10)


def test_a_guarded_stream_says_nothing_before_it_is_trusted(hostile: Hostile, connect: Connect):
    guard = Guard(min_sequence_confidence=0.5)
    (chunk,) = connect(hostile(speak("One", " two", logprob=-0.01)), guard=guard).stream(QUERY, RUDE)
    assert (chunk.text, chunk.correction.outcome) == ("One two", "corrected")
    (chunk,) = connect(hostile(speak("One", " two", logprob=-5)), guard=guard).stream(QUERY, RUDE)
    assert (chunk.text, chunk.correction.outcome) == (RUDE, "skipped")


def test_a_guarded_stream_that_breaks_off_has_said_nothing_and_is_opened_again(hostile: Hostile, connect: Connect):
    cut = speak("One", end="cut")
    (chunk,) = connect(hostile(cut, cut), guard=Guard(reject_repetition=True)).stream(QUERY, RUDE)
    assert chunk.text == GOOD
    aligner = connect(hostile(for_ever=cut), guard=Guard(reject_repetition=True), on_failure="refuse")
    (chunk,) = aligner.stream(QUERY, RUDE)
    assert (chunk.text, chunk.correction.outcome) == (REFUSAL, "failed")


def test_usage_may_come_alone_or_not_at_all(hostile: Hostile):
    event = b'data: {"choices": [{"text": "One", "finish_reason": "stop"}]}\n\n'
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}\n\n'
    *_, last = over_openai(hostile(say(event, usage))).stream(QUERY, RUDE)
    assert last.correction.usage.total_tokens == 4
    *_, last = over_openai(hostile(say(event))).stream(QUERY, RUDE)
    assert last.correction.usage is None


def test_an_older_tgi_tells_no_length_of_the_prompt_in_a_stream(hostile: Hostile):
    def older(data: bytes) -> list[bytes]:
        return [data.replace(b'"input_length"', b'"unknown"')]

    aligner = over_tgi(hostile(speak(wire=older)), guard=Guard(reject_repetition=True))
    correction = aligner.correct(QUERY, RUDE)
    assert (correction.text, correction.usage) == (GOOD, None)


def test_special_tokens_are_no_text(hostile: Hostile):
    def special(data: bytes) -> list[bytes]:
        return [data.replace(b'"special": false', b'"special": true') if b"secret" in data else data]

    assert joined(over_tgi(hostile(speak("One", "secret", " two", wire=special))).stream(QUERY, RUDE)) == "One two"


def test_the_embedded_model_streams_what_it_would_answer(unguarded: Aligner):
    draft = "The capital of France is Paris."
    chunks = list(unguarded.stream(QUERY, draft))
    assert len(chunks) > 3
    assert joined(chunks) == unguarded.correct(QUERY, draft).text


async def test_the_embedded_model_does_not_block_the_loop_and_stops_when_its_stream_is_closed(unguarded: Aligner):
    long = unguarded.astream(QUERY, "The moon is far away. " * 20)
    await anext(long)
    await long.aclose()
    assert (await unguarded.acorrect(QUERY, "Yes.")).outcome in ("corrected", "unchanged")
