"""Lengths: nothing is truncated, and what does not fit is refused before it is sent."""

import pytest
from cases import QUERY, RUDE, Connect, Hostile, assert_labelled, over_openai
from hostile import Call, HostileServer, refuse, reply, speak
from shapes import MAX_INPUT_TOKENS, MAX_TOTAL_TOKENS, MODEL

from aligner_chains import PROMPT_FORMATS, Aligner
from aligner_chains.errors import ContextLengthError, RequestRejectedError
from aligner_chains.exchange import Exchange

# The hostile server counts words; so many does the prompt have besides the draft.
PROMPT_WORDS = len(PROMPT_FORMATS["aligner-7b"].render(QUERY, "").split())


def words(count: int) -> str:
    return " ".join(["word"] * count)


def paths(server: HostileServer) -> list[str]:
    return [request.path for request in server.requests if request.path not in ("/info", "/v1/models")]


def test_a_short_draft_gets_all_the_room_that_it_could_need_and_costs_one_request(hostile: Hostile, connect: Connect):
    server = hostile()
    connect(server).correct(QUERY, RUDE)
    (request,) = server.generations
    assert paths(server) == [request.path]
    room = request.body["parameters"]["max_new_tokens"] if "parameters" in request.body else request.body["max_tokens"]
    assert 1024 <= room <= MAX_TOTAL_TOKENS - PROMPT_WORDS


def test_a_prompt_over_the_input_limit_is_refused_with_both_numbers_before_it_is_sent(
    hostile: Hostile,
):
    server = hostile()
    with pytest.raises(ContextLengthError, match="Nothing was sent: shorten") as caught:
        Aligner.from_tgi(server.url).correct(QUERY, words(MAX_INPUT_TOKENS - PROMPT_WORDS + 1))
    assert paths(server) == ["/tokenize"]
    assert (caught.value.prompt_tokens, caught.value.limit) == (MAX_INPUT_TOKENS + 1, MAX_INPUT_TOKENS)
    assert f"{MAX_INPUT_TOKENS + 1} tokens" in str(caught.value)
    assert f"room for {MAX_INPUT_TOKENS}" in str(caught.value)


def test_a_prompt_at_the_input_limit_is_sent_whole(hostile: Hostile):
    server = hostile()
    draft = words(MAX_INPUT_TOKENS - PROMPT_WORDS)
    assert Aligner.from_tgi(server.url).correct(QUERY, draft).outcome == "unchanged"
    assert draft in server.generations[0].prompt
    parameters = server.generations[0].body["parameters"]
    assert parameters["max_new_tokens"] == MAX_TOTAL_TOKENS - MAX_INPUT_TOKENS
    assert parameters["truncate"] is None


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(hostile: Hostile):
    server = hostile()
    aligner = Aligner.from_openai(server.url + "/v1")
    with pytest.raises(ContextLengthError) as caught:
        aligner.correct(QUERY, words(MAX_TOTAL_TOKENS - PROMPT_WORDS))
    assert (caught.value.prompt_tokens, caught.value.limit) == (MAX_TOTAL_TOKENS, MAX_TOTAL_TOKENS - 1)
    assert not server.generations
    assert aligner.correct(QUERY, words(MAX_TOTAL_TOKENS - PROMPT_WORDS - 1)).outcome == "unchanged"
    assert server.generations[0].body["max_tokens"] == 1


@pytest.mark.parametrize("piece", ["x", "<s> ", "\ud800"])
@pytest.mark.parametrize("place", ["query", "draft"])
def test_megabytes_are_refused_without_a_request_and_before_anything_is_made_of_them(
    hostile: Hostile, connect: Connect, monkeypatch: pytest.MonkeyPatch, piece: str, place: str
):
    monkeypatch.setattr(Exchange, "prepare", None)
    server = hostile()
    pair = {"query": QUERY, "draft": RUDE, place: piece * (5_000_000 // len(piece))}
    with pytest.raises(ContextLengthError, match="at least") as caught:
        connect(server).correct(**pair)
    assert paths(server) == []
    assert len(str(caught.value)) < 500
    assert_labelled(
        lambda policy: connect(server, on_failure=policy), ContextLengthError, (pair["query"], pair["draft"])
    )


def test_characters_of_many_bytes_are_refused_by_their_bytes(hostile: Hostile, connect: Connect):
    server = hostile()
    with pytest.raises(ContextLengthError, match="at least 4687 tokens"):
        connect(server).correct(QUERY, "字" * 200_000)
    assert paths(server) == []


def test_max_new_tokens_that_the_context_does_not_leave_are_refused(hostile: Hostile, connect: Connect):
    server = hostile()
    with pytest.raises(ContextLengthError, match="beside max_new_tokens=4090"):
        connect(server).correct(QUERY, RUDE, max_new_tokens=4090)
    assert not server.generations


@pytest.mark.parametrize("policy", ["draft", "refuse"])
def test_a_draft_that_does_not_fit_is_a_failure_like_any_other(hostile: Hostile, policy: str):
    correction = Aligner.from_tgi(hostile().url, on_failure=policy).correct(QUERY, words(5000))
    assert correction.outcome == "failed"
    assert isinstance(correction.error, ContextLengthError)


def test_where_no_limit_is_known_the_server_decides(hostile: Hostile):
    server = hostile(
        for_ever=refuse(400, "BadRequestError", "This model's maximum context length is 4096 tokens."),
        info=reply(200, {"data": [{"id": MODEL}]}),
    )
    aligner = Aligner.from_openai(server.url + "/v1")
    with pytest.raises(RequestRejectedError, match="maximum context length is 4096 tokens"):
        aligner.correct(QUERY, words(5000))
    assert words(5000) in server.generations[0].prompt


async def strict(call: Call) -> None:
    """Refuses what could exceed the context, as vLLM does; to this server, four bytes are a token."""
    room, needed = call.request.body["max_tokens"], len(call.request.prompt) // 4
    if needed + room > MAX_TOTAL_TOKENS:
        await refuse(400, "BadRequestError", "This model's maximum context length is 4096 tokens.")(call)
    else:
        await speak(finish_reason="length" if room < len(call.request.prompt) // 4 else "stop")(call)


def test_where_the_server_cannot_count_prompt_and_correction_share_the_context(hostile: Hostile):
    draft = (RUDE + " ") * 180
    server = hostile(for_ever=strict, tokenize=refuse(404, "not_found"))
    aligner = over_openai(server)
    assert aligner.correct(QUERY, draft).outcome == "corrected"
    with pytest.raises(RequestRejectedError, match="maximum context length is 4096 tokens"):
        aligner.correct(QUERY, draft * 2)
    aligner.correct(QUERY, draft, max_new_tokens=2000)
    assert server.generations[-1].body["max_tokens"] == 2000


def test_a_limit_that_the_server_does_not_tell_can_be_given(hostile: Hostile):
    server = hostile(info=reply(200, {"data": [{"id": MODEL}]}))
    with pytest.raises(ContextLengthError, match="room for 99"):
        Aligner.from_openai(server.url + "/v1", max_total_tokens=100).correct(QUERY, words(100))


def test_the_embedded_model_refuses_what_its_context_does_not_hold(embedded: Aligner):
    with pytest.raises(ContextLengthError, match="'aligner-chains/aligner-nano' has room for") as caught:
        embedded.correct(QUERY, words(2000))
    assert caught.value.prompt_tokens > caught.value.limit
