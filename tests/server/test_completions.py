"""`/v1/completions` and `/v1/models`: OpenAI's shapes, as TGI serves them."""

from __future__ import annotations

import pytest
from server_events import events_of

NAME = "aligner-chains/aligner-nano"


async def complete(session, url, **body):
    async with session.post(f"{url}/v1/completions", json={"temperature": 0, **body}) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_a_completion_is_what_the_model_writes(session, url, prompt):
    async with session.post(f"{url}/generate", json={"inputs": prompt, "parameters": {"details": True}}) as response:
        native = await response.json()
        prompt_tokens = int(response.headers["x-prompt-tokens"])
    async with session.post(f"{url}/v1/completions", json={"prompt": prompt, "temperature": 0}) as response:
        completion = await response.json()
        assert response.headers["x-prompt-tokens"] == str(prompt_tokens)
        assert response.headers["x-compute-characters"] == str(len(prompt))
    generated = native["details"]["generated_tokens"]
    assert completion["object"] == "text_completion"
    assert completion["model"] == NAME
    assert completion["choices"] == [
        {"index": 0, "text": native["generated_text"], "logprobs": None, "finish_reason": "stop"}
    ]
    assert completion["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
    }


async def test_each_of_several_prompts_is_answered(session, url, prompt):
    (alone,) = (await complete(session, url, prompt=prompt))["choices"]
    several = await complete(session, url, prompt=[prompt, "a", prompt], max_tokens=30)
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2]
    assert several["choices"][0]["text"] == several["choices"][2]["text"] == alone["text"]
    assert several["usage"]["completion_tokens"] > several["usage"]["prompt_tokens"] * 0


async def test_token_probabilities_come_on_request(session, url, prompt):
    (choice,) = (await complete(session, url, prompt=prompt, logprobs=2))["choices"]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert all(logprob <= 0 for logprob in logprobs["token_logprobs"])
    assert all(len(top) == 2 for top in logprobs["top_logprobs"])
    offsets = logprobs["text_offset"]
    assert [choice["text"][start:].startswith(token) for start, token in zip(offsets, logprobs["tokens"], strict=True)]
    assert offsets[-1] == len(choice["text"])


async def test_a_stream_ends_with_usage_and_done(session, url, prompt):
    whole = await complete(session, url, prompt=prompt, logprobs=0)
    body = {"prompt": prompt, "temperature": 0, "stream": True, "logprobs": 0}
    async with session.post(f"{url}/v1/completions", json=body) as response:
        *chunks, done = await events_of(response)
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    assert [choice["finish_reason"] for choice in choices] == [""] * (len(choices) - 1) + ["stop"]
    assert chunks[-1]["usage"] == whole["usage"]
    assert not any("usage" in chunk for chunk in chunks[:-1])
    offsets = [offset for choice in choices for offset in choice["logprobs"]["text_offset"]]
    assert offsets == whole["choices"][0]["logprobs"]["text_offset"]


async def test_usage_comes_in_a_chunk_of_its_own_on_request(session, url):
    body = {"prompt": ["a", "b"], "max_tokens": 2, "temperature": 0, "stream": True}
    async with session.post(
        f"{url}/v1/completions", json=body | {"stream_options": {"include_usage": True}}
    ) as response:
        *chunks, last, done = await events_of(response)
    assert done == "[DONE]"
    assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == (await complete(session, url, prompt=["a", "b"], max_tokens=2))["usage"]


@pytest.mark.parametrize("model", [None, "tgi", NAME])
async def test_the_model_may_be_named(session, url, model):
    assert (await complete(session, url, prompt="a", max_tokens=1, model=model))["model"] == NAME


async def test_fields_of_openai_that_change_nothing_are_taken(session, url):
    neutral = {"n": 1, "best_of": 1, "echo": False, "presence_penalty": 0.0, "logit_bias": {}, "user": "me"}
    await complete(session, url, prompt="a", max_tokens=1, **neutral)


REFUSED = [
    ({"suffix": "end"}, "suffix not supported", "Suffix is not supported"),
    ({"prompt": list("abcde")}, "batch size exceeded", "maximum allowed batch size of 4"),
    ({"model": "gpt-4"}, "validation", f"`model` must be 'tgi' or {NAME!r}. Given: 'gpt-4'"),
    ({"n": 2}, "validation", "`n` is not supported by this server. Given: 2"),
    ({"echo": True}, "validation", "`echo` is not supported by this server. Given: True"),
    ({"logit_bias": {"5": 1.0}}, "validation", "`logit_bias` is not supported by this server"),
    ({"temperature": -1.0}, "validation", "`temperature` must be strictly positive"),
    ({"top_p": 1}, "validation", "`top_p` must be > 0.0 and < 1.0"),
    ({"prompt": ["a", ""]}, "validation", "`inputs` cannot be empty"),
]


@pytest.mark.parametrize(("fields", "error_type", "reason"), REFUSED, ids=str)
async def test_what_cannot_be_done_is_refused(session, url, fields, error_type, reason):
    body = {"prompt": "a", **fields}
    async with session.post(f"{url}/v1/completions", json=body) as response:
        assert response.status == 422
        answer = await response.json()
    assert answer["error_type"] == error_type
    assert reason in answer["error"]
    async with session.post(f"{url}/v1/completions", json=body | {"stream": True}) as response:
        error, done = await events_of(response)
    assert error == {"error": {"message": answer["error"], "http_status_code": 422}}
    assert done == "[DONE]"


@pytest.mark.parametrize("fields", [{"prompt": []}, {"stop": "word"}, {"logprobs": 6}, {"max_tokens": -1}], ids=str)
async def test_a_field_of_another_type_is_refused_as_plain_text(session, url, fields):
    async with session.post(f"{url}/v1/completions", json={"prompt": "a", **fields}) as response:
        assert response.status == 422
        assert response.content_type == "text/plain"


async def test_the_one_model_is_listed_with_its_context(session, url):
    async with session.get(f"{url}/v1/models") as response:
        (model,) = (await response.json())["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == (NAME, "model", 1024)
