"""What keeps a correction from arriving: a named error that says what to do, and what a policy makes of it."""

import logging
import re
from dataclasses import dataclass
from typing import Any

import pytest
from cases import QUERY, RUDE, Connect, Hostile, assert_labelled, over_openai, over_tgi
from hostile import Behaviour, hang, hang_up, noise, page, refuse, reply, speak
from shapes import MODEL

from aligner_chains import REFUSAL, Aligner, AlignerError, Correction, Guard
from aligner_chains.errors import (
    BackendAuthenticationError,
    BackendConnectionError,
    BackendNotFoundError,
    ConfigurationError,
    CorrectionTimeoutError,
    EmptyCorrectionError,
    FeedbackNotSupportedError,
    GatewayError,
    GenerationError,
    IncompleteResponseError,
    InvalidInputError,
    OverloadedError,
    ProtocolError,
    RequestRejectedError,
    TruncatedCorrectionError,
)
from aligner_chains.settings import OnFailure

# What a user is told to do.
ADDRESS = "Check the address"
REQUEST = "Compare what it says with parameters="
LOG = "in its log"

# Asked to wait longer than there is time, a client that honours it gives up at once.
LATER = {"Retry-After": "3600"}


@dataclass(frozen=True)
class Failure:
    """What a server does, and what a user then reads."""

    behaviour: Behaviour
    error: type[AlignerError]
    message: str
    attempts: int = 1
    timeout: float = 60


FAILURES = {
    "answers nothing": Failure(hang, CorrectionTimeoutError, r"its timeout of 0\.3 s\. Raise timeout=", timeout=0.3),
    "hangs in the answer": Failure(speak(" One", end="hang"), CorrectionTimeoutError, "Raise timeout=", timeout=0.3),
    "hangs up": Failure(hang_up, BackendConnectionError, "cannot reach the server .*Is it running", attempts=3),
    "breaks off": Failure(speak("One", end="cut"), IncompleteResponseError, "before .* whole.*Look into", attempts=3),
    "400": Failure(refuse(400, "bad", "no such field"), RequestRejectedError, rf"400: no such field\. {REQUEST}"),
    "401": Failure(reply(401, b""), BackendAuthenticationError, "401: .*Give the key.*--api-key, .*ALIGNER_API_KEY"),
    "403": Failure(refuse(403, "forbidden"), BackendAuthenticationError, "answered 403: no.*Give the key"),
    "404": Failure(refuse(404, "not_found"), BackendNotFoundError, r"answered 404: no.*from_tgi takes .*ends in /v1"),
    "405": Failure(reply(405, b""), BackendNotFoundError, f"answered 405: an empty body.*{ADDRESS}"),
    "413": Failure(reply(413, b"Too Large"), RequestRejectedError, f"413: 'Too Large'.*{REQUEST}"),
    "422": Failure(refuse(422, "validation", "`top_p` is 2"), RequestRejectedError, f"422: `top_p` is 2.*{REQUEST}"),
    "422 by FastAPI": Failure(
        reply(422, {"detail": [{"loc": ["body"], "msg": "extra fields"}]}), RequestRejectedError, f"extra .*{REQUEST}"
    ),
    "424": Failure(speak(" One", end="error"), GenerationError, f"the GPU is on fire.*{LOG}"),
    "429": Failure(refuse(429, "overloaded", headers=LATER), OverloadedError, "429: no.*Lower max_concurrency, raise"),
    "500": Failure(refuse(500, "incomplete_generation"), GenerationError, f"answered 500: no.*{LOG}"),
    "500 without a body": Failure(reply(500, b""), GenerationError, f"answered 500: an empty body.*{LOG}"),
    "502": Failure(reply(502, b"<html>Bad Gateway", headers=LATER), GatewayError, "A proxy in front of the server"),
    "503": Failure(refuse(503, "healthcheck", headers=LATER), OverloadedError, "answered 503: no.*more room"),
    "504": Failure(reply(504, b"", headers=LATER), GatewayError, "A proxy in front of the server"),
    "507": Failure(reply(507, b"disk full"), GenerationError, f"answered 507: 'disk full'.*{LOG}"),
    "418": Failure(reply(418, b"teapot"), ProtocolError, f"answered 418: 'teapot'.*{ADDRESS}"),
    "a redirect": Failure(reply(302, b"", headers={"Location": "/login"}), ProtocolError, f"answered 302.*{ADDRESS}"),
    "a web page": Failure(page(), ProtocolError, f"answered 'text/html': '<html><body>Welcome to nginx.*{ADDRESS}"),
    "not HTTP": Failure(noise(b"SSH-2.0-OpenSSH_9.7\r\n"), ProtocolError, f"does not speak HTTP.*{ADDRESS}"),
    "an empty answer": Failure(speak(" ", "\n"), EmptyCorrectionError, "answered with nothing.*this prompt format"),
    "cut off at a limit": Failure(
        speak(" One", finish_reason="length"), TruncatedCorrectionError, "after 3 characters. Raise max_new_tokens"
    ),
    "filtered": Failure(
        speak(" One", finish_reason="content_filter"), GenerationError, rf"\(finish_reason 'content_filter'\).*{LOG}"
    ),
}  # fmt: skip
OF_AN_ANSWER = {
    "half an answer": Failure(speak("One", end="early"), ProtocolError, f"should answer JSON, but answered.*{ADDRESS}"),
    "nothing": Failure(reply(200, b""), ProtocolError, f"should answer JSON, .* an empty body.*{ADDRESS}"),
    "null": Failure(reply(200, None), ProtocolError, f"a shape that its protocol does not have.*{ADDRESS}"),
    "a list": Failure(reply(200, []), ProtocolError, f"a shape that its protocol does not have.*{ADDRESS}"),
    "an object": Failure(
        reply(200, {"choices": [], "details": {}}), ProtocolError, f"protocol does not have.*{ADDRESS}"
    ),
    "no text": Failure(
        reply(200, {"generated_text": 3, "details": {}, "choices": [{"text": 3}]}),
        ProtocolError,
        f"a text is 3.*{ADDRESS}",
    ),
    "depths": Failure(reply(200, b"[" * 100_000 + b"]" * 100_000), ProtocolError, f"should answer JSON.*{ADDRESS}"),
    "no numbers": Failure(speak(" One", logprob="high"), ProtocolError, f"protocol does not have .*'high'.*{ADDRESS}"),
    "no UTF-8": Failure(reply(200, b'{"generated_text": "\xff"}'), ProtocolError, f"should answer JSON.*{ADDRESS}"),
}


def aligner_for(failure: Failure, hostile: Hostile, connect: Connect, **options: Any) -> Aligner:
    return connect(hostile(for_ever=failure.behaviour), timeout=failure.timeout, min_confidence=0.5, **options)


@pytest.mark.parametrize("name", FAILURES | OF_AN_ANSWER)
def test_each_failure_is_a_named_error_that_says_what_to_do(hostile: Hostile, connect: Connect, name: str):
    failure = (FAILURES | OF_AN_ANSWER)[name]
    server = hostile(for_ever=failure.behaviour)
    aligner = connect(server, timeout=failure.timeout, min_confidence=0.5)
    with pytest.raises(failure.error, match=f"(?s){failure.message}") as caught:
        aligner.correct(QUERY, RUDE)
    assert type(caught.value) is failure.error
    assert len(server.generations) == failure.attempts
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("name", FAILURES)
def test_each_failure_of_a_stream_is_the_same_error(hostile: Hostile, connect: Connect, name: str):
    failure = FAILURES[name]
    with pytest.raises(failure.error, match=f"(?s){failure.message}") as caught:
        next(aligner_for(failure, hostile, connect).stream(QUERY, RUDE))
    assert type(caught.value) is failure.error


@pytest.mark.parametrize("name", OF_AN_ANSWER)
def test_each_policy_labels_what_is_no_answer(hostile: Hostile, connect: Connect, name: str):
    failure = OF_AN_ANSWER[name]
    assert_labelled(lambda policy: aligner_for(failure, hostile, connect, on_failure=policy), failure.error)


@pytest.mark.parametrize("policy", ["draft", "refuse"])
@pytest.mark.parametrize("name", FAILURES)
def test_each_policy_gives_its_text_labels_it_and_keeps_the_error(
    hostile: Hostile, connect: Connect, caplog: pytest.LogCaptureFixture, name: str, policy: str
):
    failure = FAILURES[name]
    aligner = aligner_for(failure, hostile, connect, on_failure=policy)
    text = {"draft": RUDE, "refuse": REFUSAL}[policy]
    (chunk,) = aligner.stream(QUERY, RUDE)
    for correction in (aligner.correct(QUERY, RUDE), chunk.correction):
        assert (correction.text, correction.outcome) == (text, "failed")
        assert (correction.query, correction.draft) == (QUERY, RUDE)
        assert type(correction.error) is failure.error
    assert chunk.text == text
    assert [(record.name, record.levelno) for record in caplog.records] == [("aligner_chains", logging.WARNING)] * 2
    assert f"No correction, on_failure='{policy}': {aligner.correct(QUERY, RUDE).error}" in caplog.text


def test_a_policy_for_one_draft_comes_before_the_one_of_the_aligner(hostile: Hostile):
    aligner = over_tgi(hostile(for_ever=reply(500, b"")), on_failure="refuse")
    assert aligner.correct(QUERY, RUDE, on_failure="draft").text == RUDE
    with pytest.raises(GenerationError):
        aligner.correct(QUERY, RUDE, on_failure="raise")


@pytest.mark.parametrize("name", ["query", "draft"])
@pytest.mark.parametrize("value", [None, 3, b"bytes", ["list"]])
@pytest.mark.parametrize("policy", ["raise", "draft", "refuse"])
def test_what_is_no_string_is_a_type_error_under_every_policy(
    hostile: Hostile, name: str, value: object, policy: OnFailure
):
    server = hostile()
    aligner = over_tgi(server, on_failure=policy)
    with pytest.raises(TypeError, match=f"The {name} must be a string, not {type(value).__name__}"):
        aligner.correct(**{"query": QUERY, "draft": RUDE, name: value})
    with pytest.raises(TypeError, match="must be a string"):
        next(aligner.stream(**{"query": QUERY, "draft": RUDE, name: value}))
    assert not server.requests


@pytest.mark.parametrize("text", ["", " \n", "a\0b", "\ud800"])
def test_what_cannot_be_corrected_is_not_sent(hostile: Hostile, connect: Connect, text: str):
    server = hostile()
    aligner = connect(server)
    for pair in ((text, RUDE), (QUERY, text)):
        with pytest.raises(InvalidInputError, match=r"The (query|draft) (is|holds) .*(Give|Take|takes such)"):
            aligner.correct(*pair)
        assert_labelled(lambda policy: connect(server, on_failure=policy), InvalidInputError, pair)
    assert not server.generations


def test_feedback_that_the_format_has_no_slot_for_is_not_sent(hostile: Hostile, connect: Connect):
    server = hostile()
    aligner = connect(server, prompt_format="aligner-2b")
    with pytest.raises(
        FeedbackNotSupportedError, match=r"'aligner-2b' has no place for feedback.* Leave the feedback out"
    ):
        aligner.correct(QUERY, RUDE, feedback="empathetic")
    assert_labelled(
        lambda policy: connect(server, prompt_format="aligner-2b", on_failure=policy, feedback="empathetic"),
        FeedbackNotSupportedError,
    )
    assert not server.generations


def test_a_chat_format_needs_a_chat_server(hostile: Hostile):
    server = hostile()
    with pytest.raises(ConfigurationError, match=r"takes a text.* Use Aligner\.from_openai\(url \+ '/v1'"):
        over_tgi(server, prompt_format="instruct").correct(QUERY, RUDE)
    assert not server.generations


def test_a_server_without_probabilities_cannot_serve_a_guard_that_needs_them(hostile: Hostile, connect: Connect):
    aligner = connect(hostile(for_ever=speak(logprob=None)), guard=Guard(min_sequence_confidence=0.5))
    with pytest.raises(ConfigurationError, match="this server gives none"):
        aligner.correct(QUERY, RUDE)
    assert aligner.correct(QUERY, RUDE, on_failure="draft").outcome == "failed"


@pytest.mark.parametrize(("logprob", "outcome"), [(-3.0, "skipped"), (float("nan"), "skipped"), (0.5, "corrected")])
def test_a_correction_that_is_not_trusted_leaves_the_draft(
    hostile: Hostile, connect: Connect, logprob: float, outcome: str
):
    aligner = connect(hostile(for_ever=speak(logprob=logprob)), min_confidence=0.5)
    correction = aligner.correct(QUERY, RUDE)
    (chunk,) = aligner.stream(QUERY, RUDE)
    assert correction.outcome == chunk.correction.outcome == outcome
    assert (correction.text == RUDE) == (chunk.text == RUDE) == (outcome == "skipped")
    assert (correction.reason is None) == (outcome != "skipped")


@pytest.mark.parametrize("policy", ["raise", "draft", "refuse"])
def test_what_is_not_trusted_leaves_the_draft_although_a_limit_ended_it(
    hostile: Hostile, connect: Connect, policy: OnFailure
):
    server = hostile(speak(" One", logprob=-5, finish_reason="length"))
    correction = connect(server, min_confidence=0.5, on_failure=policy).correct(QUERY, RUDE)
    assert (correction.text, correction.outcome) == (RUDE, "skipped")


@pytest.mark.parametrize("reject_repetition", [False, True])
def test_parameters_that_json_cannot_hold_are_no_fault_of_the_server(
    hostile: Hostile, connect: Connect, reject_repetition: bool
):
    server = hostile()
    aligner = connect(server, parameters={"stop": {1, 2}}, guard=Guard(reject_repetition=reject_repetition))
    with pytest.raises(ConfigurationError, match=r"parameters= must be what JSON can hold: .* set is not JSON"):
        aligner.correct(QUERY, RUDE)
    assert not server.generations


@pytest.mark.parametrize("logprob", [-0.01, -5])
def test_a_loop_leaves_the_draft_and_is_not_heard_to_its_end(hostile: Hostile, connect: Connect, logprob: float):
    server = hostile(for_ever=speak(*[" one two three four"] * 3, logprob=logprob, end="hang"))
    aligner = connect(server, guard=Guard(min_confidence=0.5, reject_repetition=True))
    (chunk,) = aligner.stream(QUERY, RUDE)
    assert server.dropped.wait(10)
    for correction in (aligner.correct(QUERY, RUDE), chunk.correction):
        assert (correction.text, correction.outcome, correction.model) == (RUDE, "skipped", MODEL)
        assert correction.reason == "repeats itself: 'one two three four'"
    assert chunk.text == RUDE


def test_neither_key_nor_whole_draft_is_in_what_a_user_reads(
    hostile: Hostile, connect: Connect, caplog: pytest.LogCaptureFixture
):
    draft = "This draft is a secret of my own. " * 30
    for behaviour in (
        reply(422, {"detail": [{"input": draft, "msg": "too much"}]}),
        reply(200, draft.encode(), content_type="text/plain"),
        reply(200, {"generated_text": {"text": draft}, "details": {}, "choices": [{"text": {"text": draft}}]}),
    ):
        aligner = connect(hostile(for_ever=behaviour), api_key="sk-secret", on_failure="draft")
        correction = aligner.correct(QUERY, draft)
        assert correction.error is not None
        shown = f"{aligner!r} {correction.error} {correction.error!r} {caplog.text}"
        assert "sk-secret" not in shown
        assert draft[:300] not in shown


def test_an_error_in_an_answer_that_claims_success_is_what_it_says(hostile: Hostile):
    server = hostile(reply(200, {"error": {"message": "You have run out of credits"}}))
    with pytest.raises(GenerationError, match=r"sent an error: .*You have run out of credits"):
        over_openai(server).correct(QUERY, RUDE)


def test_the_key_is_sent_with_every_request(hostile: Hostile, connect: Connect):
    server = hostile()
    connect(server, api_key="sk-secret").correct(QUERY, RUDE)
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer sk-secret"}


def test_a_failed_correction_can_be_shown_as_json(hostile: Hostile):
    correction: Correction = over_tgi(hostile(for_ever=reply(500, b"")), on_failure="draft").correct(QUERY, RUDE)
    shown = correction.to_dict()
    assert shown["error"]["type"] == "GenerationError"
    assert re.match("POST .*/generate answered 500", shown["error"]["message"])


def test_a_policy_for_an_error_from_elsewhere():
    aligner = Aligner.from_tgi("http://127.0.0.1:9", on_failure="draft")
    error = EmptyCorrectionError("It answered with nothing.")
    correction = aligner.fallback(QUERY, RUDE, error)
    assert (correction.text, correction.outcome, correction.error) == (RUDE, "failed", error)
    assert aligner.fallback(QUERY, RUDE, error, on_failure="refuse").text == REFUSAL
    with pytest.raises(EmptyCorrectionError):
        aligner.fallback(QUERY, RUDE, error, on_failure="raise")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, ConfigurationError),
        ({"max_new_tokens": 0}, ConfigurationError),
        ({"feedback": ","}, InvalidInputError),
    ],
)
def test_an_option_that_is_none_raises_under_every_policy(options: dict[str, Any], error: type[AlignerError]):
    with pytest.raises(error):
        Aligner.from_tgi("http://127.0.0.1:9", on_failure="draft").correct(QUERY, RUDE, **options)
