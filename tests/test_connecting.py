"""Finding a server, its model and its limits; and trying again."""

import socket
from collections.abc import Callable

import pytest
from cases import GOOD, QUERY, RUDE, Connect, Hostile, assert_labelled, over_openai, over_tgi
from hostile import Behaviour, hang, hang_up, noise, page, refuse, reply, speak, too_busy
from shapes import MODEL, OPENAI_MODELS, TGI_INFO

from aligner_chains import Aligner
from aligner_chains.errors import (
    AlignerError,
    BackendConnectionError,
    BackendNotFoundError,
    ConfigurationError,
    CorrectionTimeoutError,
    GatewayError,
    OverloadedError,
    ProtocolError,
)


@pytest.fixture
def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("make", [Aligner.from_tgi, Aligner.from_openai])
def test_a_closed_port_is_an_error_that_names_the_address(make: Callable[..., Aligner], closed_port: str):
    with pytest.raises(ConnectionError, match=f"GET {closed_port}/.*: cannot reach the server .*Is it running, and"):
        make(closed_port).correct(QUERY, RUDE)
    assert_labelled(lambda policy: make(closed_port, on_failure=policy), BackendConnectionError)


def test_a_host_that_is_not_known_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch):
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(
        BackendConnectionError, match=r"http://nowhere\.invalid/info: cannot reach .* not known.*Is it running"
    ):
        Aligner.from_tgi("http://nowhere.invalid").correct(QUERY, RUDE)


@pytest.mark.parametrize(
    ("behaviour", "error", "message"),
    [
        (page(), ProtocolError, "<html><body>Welcome to nginx"),
        (page(404), (ProtocolError, BackendNotFoundError), "answered 404: .*Check the address"),
        (hang_up, BackendConnectionError, "Is it running"),
        (noise(b"220 mail ESMTP\r\n"), ProtocolError, "does not speak HTTP"),
        (reply(200, {"hello": "world"}), ProtocolError, "a shape that its protocol does not have"),
        (reply(200, {"data": [{"id": MODEL, "max_model_len": "long"}]}), ProtocolError, "protocol does not have"),
        (reply(200, {"data": 3}), ProtocolError, "a shape that its protocol does not have"),
        (reply(200, {**TGI_INFO, "max_input_tokens": float("inf")}), ProtocolError, "protocol does not have"),
    ],
)
def test_an_address_where_something_else_answers_is_an_error(
    hostile: Hostile,
    connect: Connect,
    behaviour: Behaviour,
    error: type[AlignerError] | tuple[type[AlignerError], ...],
    message: str,
):
    server = hostile(info=behaviour)
    with pytest.raises(error, match=message):
        connect(server).correct(QUERY, RUDE)
    assert_labelled(lambda policy: connect(server, on_failure=policy), error)
    assert not server.generations


def test_an_address_that_says_nothing_ends_at_the_deadline(hostile: Hostile, connect: Connect):
    server = hostile(info=hang)
    with pytest.raises(CorrectionTimeoutError, match=r"timeout of 0\.2 s"):
        connect(server, timeout=0.2).correct(QUERY, RUDE)
    assert_labelled(lambda policy: connect(server, timeout=0.2, on_failure=policy), CorrectionTimeoutError)


def test_an_openai_server_at_the_address_of_tgi_is_told_apart(hostile: Hostile):
    with pytest.raises(ProtocolError, match=r"is not TGI: .*Aligner\.from_openai an address that ends in /v1"):
        Aligner.from_tgi(hostile(info=refuse(404, "not_found")).url).correct(QUERY, RUDE)


def test_an_openai_address_without_v1_is_told(hostile: Hostile):
    with pytest.raises(BackendNotFoundError, match=r"Aligner\.from_openai an address that ends in /v1"):
        Aligner.from_openai(hostile().url).correct(QUERY, RUDE)


@pytest.mark.parametrize(("models", "named"), [([], r"\(none\)"), (["a", "b"], "'a', 'b'")])
def test_a_server_with_other_than_one_model_wants_to_know_which(hostile: Hostile, models: list[str], named: str):
    server = hostile(info=reply(200, {"data": [{"id": model} for model in models]}))
    with pytest.raises(ConfigurationError, match=f"has the models {named}: say which with model="):
        over_openai(server).correct(QUERY, RUDE)
    assert over_openai(server, model="b", prompt_format="aligner-7b").correct(QUERY, RUDE).text == GOOD
    assert server.generations[-1].body["model"] == "b"


def test_a_gateway_without_a_list_of_models_is_enough_for_a_named_one(hostile: Hostile):
    server = hostile(info=refuse(404, "not_found"))
    assert over_openai(server, model=MODEL).correct(QUERY, RUDE).text == GOOD


def test_a_gateway_that_is_down_is_not_taken_for_one_without_a_list(hostile: Hostile):
    server = hostile(info=reply(502, b"", headers={"Retry-After": "3600"}))
    with pytest.raises(GatewayError):
        over_openai(server, model=MODEL).correct(QUERY, RUDE)


def test_model_and_limits_are_asked_for_once(hostile: Hostile, connect: Connect):
    server = hostile()
    aligner = connect(server)
    for _ in range(3):
        aligner.correct(QUERY, RUDE)
    assert len(server.requests) == 4


@pytest.mark.parametrize("streamed", [False, True])
def test_what_comes_back_after_a_lost_connection_may_be_another_model(
    hostile: Hostile, connect: Connect, streamed: bool
):
    server = hostile(speak(), hang_up)
    aligner = connect(server)
    aligner.correct(QUERY, RUDE)
    other = {"max_input_tokens": 7, "max_total_tokens": 8}
    server.info = reply(200, {**TGI_INFO, **other, "data": [{**OPENAI_MODELS["data"][0], "max_model_len": 8}]})
    with pytest.raises(ValueError, match="has room for 7"):
        list(aligner.stream(QUERY, RUDE)) if streamed else aligner.correct(QUERY, RUDE)


@pytest.mark.parametrize(
    "behaviour",
    [too_busy, hang_up, refuse(503, "healthcheck"), reply(502, b"<html>"), reply(504, b""), speak("", end="cut")],
    ids=["429", "hang up", "503", "502", "504", "cut"],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_may_pass_is_tried_again(hostile: Hostile, connect: Connect, behaviour: Behaviour, streamed: bool):
    server = hostile(behaviour, behaviour)
    aligner = connect(server)
    text = "".join(map(str, aligner.stream(QUERY, RUDE))) if streamed else aligner.correct(QUERY, RUDE).text
    assert text == GOOD
    assert len(server.generations) == 3


def test_a_server_that_is_busy_for_ever_is_given_up_before_the_deadline(hostile: Hostile, connect: Connect):
    server = hostile(for_ever=too_busy)
    with pytest.raises(OverloadedError, match="Model is overloaded") as caught:
        connect(server, timeout=2).correct(QUERY, RUDE)
    assert caught.value.status == 429
    assert len(server.generations) > 1


def test_a_wait_that_the_server_asks_for_is_waited_for_unless_it_is_too_long(hostile: Hostile, connect: Connect):
    soon = refuse(429, "overloaded", headers={"Retry-After": "1"})
    assert connect(hostile(soon)).correct(QUERY, RUDE).text == GOOD
    late = hostile(refuse(429, "overloaded", headers={"Retry-After": "61"}))
    with pytest.raises(OverloadedError) as caught:
        connect(late, timeout=60).correct(QUERY, RUDE)
    assert caught.value.retry_after == 61
    assert len(late.generations) == 1


def test_greedy_decoding_is_asked_for_and_parameters_are_passed_on(hostile: Hostile):
    tgi, openai = hostile(), hostile()
    over_tgi(tgi, parameters={"repetition_penalty": 1.05}).correct(QUERY, RUDE)
    over_openai(openai, parameters={"repetition_penalty": 1.05}).correct(QUERY, RUDE)
    parameters = tgi.generations[0].body["parameters"]
    assert (parameters["do_sample"], parameters["return_full_text"], parameters["repetition_penalty"]) == (
        False,
        False,
        1.05,
    )
    assert (openai.generations[0].body["temperature"], openai.generations[0].body["repetition_penalty"]) == (0, 1.05)
