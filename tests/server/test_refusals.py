"""What is refused, how, and in which words."""

from __future__ import annotations

import io

import pytest
from server_events import events_of

from aligner_chains.errors import ConfigurationError
from aligner_chains.server import Limits

INVALID = [
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"temperature": -1.5}, "`temperature` must be strictly positive"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ({"repetition_penalty": 1e-9}, "`repetition_penalty` must be >= 0.01 and <= 100.0"),
    ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"stop": [""]}, "`stop` sequences cannot be empty"),
    ({"best_of": 0}, "`best_of` must be > 0 and <= 2. Given: 0"),
    ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 1024. Given: 0"),
    ({"truncate": 1024}, "`truncate` must be strictly positive and less than 1024. Given: 1024"),
    ({"watermark": True}, "`watermark` is not supported by this server"),
    ({"grammar": {"type": "regex", "value": "a"}}, "grammar is not supported"),
    ({"adapter_id": "mine"}, "`adapter_id` names an adapter, and this server has none. Given: 'mine'"),
    (
        {"max_new_tokens": 1023},
        "`inputs` tokens + `max_new_tokens` must be <= 1024. Given: 2 `inputs` tokens and 1023 `max_new_tokens`",
    ),
    (
        {"max_new_tokens": 99999},
        "`inputs` tokens + `max_new_tokens` must be <= 1024. Given: 2 `inputs` tokens and 99999 `max_new_tokens`",
    ),
]


def error_of(reason):
    return {"error": f"Input validation error: {reason}", "error_type": "validation"}


@pytest.mark.parametrize(("parameters", "reason"), INVALID, ids=str)
async def test_a_parameter_out_of_range_is_named(session, url, parameters, reason):
    body = {"inputs": "a", "parameters": parameters}
    async with session.post(f"{url}/generate", json=body) as response:
        assert response.status == 422
        assert await response.json() == error_of(reason)
    async with session.post(f"{url}/generate_stream", json=body) as response:
        (event,) = await events_of(response)
    assert event["error_type"] == "validation"


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"best_of": 2, "do_sample": True}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"decoder_input_details": True}, "`decoder_input_details` == true is not supported when streaming tokens"),
    ],
)
async def test_what_a_stream_cannot_carry_is_an_event(session, url, parameters, reason):
    async with session.post(f"{url}/generate_stream", json={"inputs": "a", "parameters": parameters}) as response:
        assert await events_of(response) == [error_of(reason)]


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ("", "`inputs` cannot be empty"),
        ("a " * 1023, "`inputs` must have less than 1024 tokens. Given: "),
    ],
)
async def test_a_prompt_that_does_not_fit_is_refused(session, url, inputs, reason):
    async with session.post(f"{url}/generate", json={"inputs": inputs, "parameters": {}}) as response:
        assert response.status == 422
        answer = await response.json()
    assert reason in answer["error"]


@pytest.mark.parametrize("route", ["/", "/generate", "/generate_stream", "/tokenize", "/v1/completions"])
@pytest.mark.parametrize(
    ("sent", "refused"),
    [
        ((b"{", "application/json"), (400, "Failed to parse the request body as JSON")),
        ((b"", "application/json"), (400, "Failed to parse the request body as JSON")),
        ((b'{"inputs": "\xff"}', "application/json"), (400, "Failed to parse the request body as JSON")),
        ((b"{}", "application/json"), (422, "Failed to deserialize the JSON body into the target type")),
        ((b"[]", "application/vnd.mine+json"), (422, "Failed to deserialize the JSON body into the target type")),
        ((b"{}", "text/plain"), (415, "Expected request with `Content-Type: application/json`")),
        ((b" " * 2_000_001, "application/json"), (413, "")),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_as_plain_text(session, url, route, sent, refused):
    (body, content_type), (status, text) = sent, refused
    async with session.post(url + route, data=io.BytesIO(body), headers={"Content-Type": content_type}) as response:
        assert response.status == status
        assert response.content_type == "text/plain"
        assert (await response.text()).startswith(text)


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": "hot"},
        {"max_new_tokens": 1.5},
        {"max_new_tokens": -1},
        {"max_new_tokens": "5"},
        {"do_sample": None},
        {"details": 1},
        {"stop": "word"},
        {"stop": None},
        {"seed": 2**64},
        None,
    ],
    ids=str,
)
async def test_a_parameter_of_another_type_is_refused_as_plain_text(session, url, parameters):
    async with session.post(f"{url}/generate", json={"inputs": "a", "parameters": parameters}) as response:
        assert response.status == 422
        assert response.content_type == "text/plain"
        assert "parameters" in await response.text()


@pytest.mark.parametrize(
    ("route", "body", "name"),
    [
        ("/generate", {"inputs": "a", "stream": True}, "`stream`"),
        ("/generate", {"inputs": "a", "parameters": {"temprature": 0.5}}, "`parameters.temprature`"),
        ("/v1/completions", {"prompt": "a", "top_k": 3, "min_p": 0.1}, "`top_k`, `min_p`"),
    ],
)
async def test_an_unknown_field_is_named_and_not_ignored(session, url, route, body, name):
    async with session.post(url + route, json=body) as response:
        assert response.status == 422
        assert await response.json() == error_of(f"this server does not know {name}")


async def test_a_whole_body_at_the_limit_is_read(session, url):
    body = b'{"inputs": ""}'
    padded = body + b" " * (2_000_000 - len(body))
    headers = {"Content-Type": "application/json"}
    async with session.post(f"{url}/generate", data=io.BytesIO(padded), headers=headers) as response:
        assert await response.json() == error_of("`inputs` cannot be empty")


async def test_what_is_not_there_is_not_found(session, url):
    async with session.post(f"{url}/v1/chat/completions", json={}) as response:
        assert response.status == 404
    async with session.get(f"{url}/generate") as response:
        assert response.status == 405


@pytest.mark.parametrize("route", ["/", "/generate", "/generate_stream", "/tokenize", "/v1/completions"])
async def test_without_the_key_nothing_is_written(session, serve_model, scripted, route):
    url = serve_model(scripted, api_key="key")
    wrong = ("Bearer wrong", "Bearer", "key", "Basic key", "Bearer ключ")
    for headers in ({}, *({"Authorization": value} for value in wrong)):
        async with session.post(url + route, json={"inputs": "a"}, headers=headers) as response:
            assert response.status == 401
            assert await response.read() == b""
    assert scripted.began == []


async def test_with_the_key_everything_is(session, serve_model, scripted):
    url = serve_model(scripted, api_key="key")
    for header in ("Bearer key", "bearer key"):
        async with session.post(f"{url}/tokenize", json={"inputs": "a"}, headers={"Authorization": header}) as response:
            assert response.status == 200
    for route in ("/info", "/health", "/metrics", "/v1/models"):
        async with session.get(url + route) as response:
            assert response.status == 200
    async with session.post(f"{url}/nowhere") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_total_tokens": 5000}, "more than the model's context of 4096"),
        ({"max_input_tokens": 4096}, "must be less than max_total_tokens=4096"),
        ({"max_concurrent_requests": 0}, "max_concurrent_requests must be at least 1, not 0"),
    ],
)
def test_limits_that_cannot_hold_are_refused(serve_model, scripted, limits, message):
    with pytest.raises(ConfigurationError, match=message):
        serve_model(scripted, limits=Limits(**limits))
