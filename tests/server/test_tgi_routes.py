"""TGI's routes answer in TGI's shapes."""

from __future__ import annotations

import pytest
from server_events import events_of

from aligner_chains._version import __version__
from aligner_chains.backends.base import GenerationRequest
from aligner_chains.server import Limits
from aligner_chains.testing import serve_embedded


async def generate(session, url, inputs, route="/generate", **parameters):
    async with session.post(url + route, json={"inputs": inputs, "parameters": parameters}) as response:
        assert response.status == 200, await response.text()
        return await response.json(), response.headers


async def test_generate_gives_what_the_model_writes(session, url, prompt, embedded_backend):
    expected = await embedded_backend.generate(GenerationRequest(prompt))
    answer, headers = await generate(session, url, prompt, details=True)
    details = answer["details"]
    assert answer["generated_text"] == expected.text
    assert details["finish_reason"] == "eos_token"
    assert details["generated_tokens"] == len(details["tokens"]) == expected.usage.output_tokens
    assert [token["logprob"] for token in details["tokens"]] == pytest.approx(expected.logprobs, abs=1e-3)
    assert [token["special"] for token in details["tokens"]] == [False] * (len(expected.logprobs) - 1) + [True]
    assert details["seed"] is None
    assert details["prefill"] == []
    assert "top_tokens" not in details
    assert "best_of_sequences" not in details
    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == str(len(prompt))
    assert headers["x-prompt-tokens"] == str(expected.usage.input_tokens)
    assert headers["x-generated-tokens"] == str(expected.usage.output_tokens)
    names = ("x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token")
    assert all(headers[name].isdecimal() for name in names)
    assert float(headers["x-compute-time"]) > 0


async def test_details_come_only_when_asked_for(session, url, prompt):
    answer, _ = await generate(session, url, prompt, max_new_tokens=1)
    assert set(answer) == {"generated_text"}


async def test_the_prompt_is_scored_on_request(session, url, prompt):
    answer, headers = await generate(session, url, prompt, max_new_tokens=1, decoder_input_details=True)
    prefill = answer["details"]["prefill"]
    assert len(prefill) == int(headers["x-prompt-tokens"])
    assert prefill[0]["logprob"] is None
    assert all(token["logprob"] <= 0 for token in prefill[1:])
    assert "".join(token["text"] for token in prefill[1:]) == prompt


async def test_alternatives_are_told_on_request(session, url, prompt):
    answer, _ = await generate(session, url, prompt, max_new_tokens=3, details=True, top_n_tokens=2)
    tokens, top_tokens = answer["details"]["tokens"], answer["details"]["top_tokens"]
    assert [len(top) for top in top_tokens] == [2, 2, 2]
    assert [top[0]["id"] for top in top_tokens] == [token["id"] for token in tokens]
    assert all(likelier["logprob"] >= other["logprob"] for likelier, other in top_tokens)


async def test_a_stream_ends_with_the_whole(session, url, prompt):
    whole, _ = await generate(session, url, prompt, details=True)
    body = {"inputs": prompt, "parameters": {"details": True, "top_n_tokens": 1}}
    async with session.post(f"{url}/generate_stream", json=body) as response:
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-compute-characters"] == str(len(prompt))
        *firsts, last = await events_of(response)
    assert [event["index"] for event in [*firsts, last]] == list(range(1, len(firsts) + 2))
    assert all(event["generated_text"] is None and event["details"] is None for event in firsts)
    assert all(len(event["top_tokens"]) == 1 for event in [*firsts, last])
    assert "".join(event["token"]["text"] for event in firsts) == last["generated_text"] == whole["generated_text"]
    assert last["token"]["special"]
    assert last["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": len(firsts) + 1,
        "seed": None,
        "input_length": last["details"]["input_length"],
    }


async def test_the_root_answers_either_way(session, url, prompt):
    whole, _ = await generate(session, url, prompt, return_full_text=True)
    assert whole["generated_text"].startswith(prompt)
    async with session.post(url, json={"inputs": prompt, "parameters": {}}) as response:
        assert await response.json() == [whole]
    async with session.post(url, json={"inputs": prompt, "parameters": {}, "stream": True}) as response:
        assert (await events_of(response))[-1]["generated_text"] == whole["generated_text"]
    without, _ = await generate(session, url, prompt, route="/", return_full_text=False)
    assert without == [{"generated_text": whole["generated_text"].removeprefix(prompt)}]


async def test_without_parameters_it_samples_and_with_empty_ones_it_does_not(session, url, prompt):
    async with session.post(f"{url}/v1/completions", json={"prompt": prompt, "max_tokens": 1}) as response:
        assert response.status == 200
    async with session.post(url, json={"inputs": prompt, "stream": True}) as response:
        sampled = (await events_of(response))[-1]
    assert sampled["details"] is None
    greedy, _ = await generate(session, url, prompt, details=True, max_new_tokens=1)
    assert greedy["details"]["seed"] is None
    drawn, _ = await generate(session, url, prompt, details=True, max_new_tokens=1, do_sample=True)
    assert drawn["details"]["seed"] is not None


async def test_the_seed_that_is_told_gives_the_answer_again(session, url, prompt):
    draw = {"temperature": 5.0, "top_k": 50, "top_p": 0.99, "typical_p": 0.99, "max_new_tokens": 12, "details": True}
    first, _ = await generate(session, url, prompt, **draw)
    again, _ = await generate(session, url, prompt, seed=first["details"]["seed"], **draw)
    assert again["generated_text"] == first["generated_text"]


@pytest.mark.parametrize(
    "parameters", [{"temperature": 1e-30}, {"temperature": 1.0}, {"repetition_penalty": 1.0, "frequency_penalty": 0.0}]
)
async def test_what_changes_nothing_is_greedy(session, url, prompt, parameters):
    greedy, _ = await generate(session, url, prompt)
    assert (await generate(session, url, prompt, **parameters))[0] == greedy


async def test_penalties_change_the_answer(session, url, prompt):
    greedy, _ = await generate(session, url, prompt)
    penalised, _ = await generate(session, url, prompt, max_new_tokens=20, repetition_penalty=100.0)
    assert penalised != greedy


async def test_the_likelier_of_two_answers_is_chosen(session, url, prompt):
    answer, _ = await generate(
        session, url, prompt, best_of=2, do_sample=True, temperature=20.0, max_new_tokens=8, details=True
    )
    (other,) = answer["details"]["best_of_sequences"]

    def mean(details):
        return sum(token["logprob"] for token in details["tokens"]) / details["generated_tokens"]

    assert mean(answer["details"]) >= mean(other)
    assert other["seed"] != answer["details"]["seed"]


async def test_a_stop_sequence_ends_the_answer_and_stays_in_it(session, url, prompt):
    whole, _ = await generate(session, url, prompt, details=True)
    first, second, *_ = (token["text"] for token in whole["details"]["tokens"])
    answer, _ = await generate(session, url, prompt, details=True, stop=["not in there", second])
    assert answer["generated_text"] == first + second
    assert answer["details"]["finish_reason"] == "stop_sequence"


async def test_truncation_keeps_the_end(session, url, prompt):
    answer, headers = await generate(session, url, prompt, truncate=4, max_new_tokens=1, decoder_input_details=True)
    assert headers["x-prompt-tokens"] == "4"
    assert prompt.endswith("".join(token["text"] for token in answer["details"]["prefill"]))


@pytest.mark.parametrize("max_new_tokens", [None, 5000])
async def test_an_answer_takes_what_the_context_leaves(session, serve_model, scripted, max_new_tokens):
    url = serve_model(scripted, limits=Limits(max_total_tokens=1100))
    scripted.allow(1100)
    answer, headers = await generate(session, url, "Hello", details=True, max_new_tokens=max_new_tokens)
    assert answer["details"]["finish_reason"] == "length"
    assert answer["details"]["generated_tokens"] == 1100 - int(headers["x-prompt-tokens"])


async def test_line_separators_of_unicode_are_sent_as_they_are(session, url, prompt):
    body = {"inputs": f"\u2028\x85{prompt}", "parameters": {"return_full_text": True}}
    for route in ("/generate", "/generate_stream"):
        async with session.post(url + route, json=body) as response:
            assert "\u2028\x85".encode() in await response.read()


async def test_tokenize_shows_where_tokens_stand(session, url, embedded_backend):
    text = "Café </s> ok"
    body = {"inputs": text, "parameters": {}}
    async with session.post(f"{url}/tokenize", json=body) as response:
        tokens = await response.json()
    assert [token["id"] for token in tokens] == embedded_backend.model.encode(text)
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in tokens)
    assert "</s>" in [token["text"] for token in tokens]
    async with session.post(f"{url}/tokenize", json={"inputs": text, "parameters": {"truncate": 2}}) as response:
        assert await response.json() == tokens[-2:]
    async with session.post(f"{url}/tokenize", json={"model": "any", "prompt": text}) as response:
        counted = await response.json()
    assert counted == {"count": len(tokens), "max_model_len": 1024, "tokens": [token["id"] for token in tokens]}


async def test_info_tells_model_and_limits(session, url, serve_model, scripted):
    async with session.get(f"{url}/info") as response:
        told = await response.json()
    assert told["model_id"] == "aligner-chains/aligner-nano"
    assert (told["max_input_tokens"], told["max_total_tokens"]) == (1023, 1024)
    assert told["max_concurrent_requests"] == 128
    assert told["version"] == __version__
    limits = Limits(max_concurrent_requests=3, max_input_tokens=20, max_total_tokens=30, max_stop_sequences=1)
    async with session.get(f"{serve_model(scripted, limits=limits)}/info") as response:
        told = await response.json()
    assert (told["max_concurrent_requests"], told["max_stop_sequences"]) == (3, 1)
    assert (told["max_input_tokens"], told["max_total_tokens"]) == (20, 30)


async def test_the_embedded_aligner_is_what_is_served_by_default(session, url):
    with serve_embedded() as own:
        assert own != url
        async with session.get(f"{own}/info") as response:
            assert (await response.json())["model_id"] == "aligner-chains/aligner-nano"


async def test_metrics_have_tgis_names(session, serve_model, scripted, count):
    url = serve_model(scripted)
    scripted.allow(3)
    await generate(session, url, "Hello", max_new_tokens=3)
    async with session.post(f"{url}/generate", json={"inputs": ""}) as response:
        assert response.status == 422
    assert await count(url, "tgi_request_count") == 2
    assert await count(url, "tgi_request_success") == 1
    assert await count(url, 'tgi_request_failure{err="validation"}') == 1
    assert await count(url, "tgi_request_generated_tokens_sum") == 3
    assert await count(url, "tgi_request_input_length_count") == 1
    for name in ("duration", "queue_duration", "inference_duration"):
        assert await count(url, f"tgi_request_{name}_count") == 1
    assert await count(url, "tgi_queue_size") == 0
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    assert "# TYPE tgi_request_count counter\n" in text
    assert "tgi_request_count_total" not in text


async def test_health_is_lost_with_the_model_and_comes_back_with_it(session, serve_model, scripted):
    url = serve_model(scripted)
    scripted.error = RuntimeError("out of memory")
    async with session.post(f"{url}/generate", json={"inputs": "Hello"}) as response:
        assert response.status == 424
        failure = await response.json()
    assert failure["error"].startswith("Request failed during generation: ")
    assert failure["error"].endswith("RuntimeError: out of memory.")
    assert failure["error_type"] == "generation"
    async with session.get(f"{url}/health") as response:
        assert response.status == 503
        assert await response.json() == {"error": "unhealthy", "error_type": "healthcheck"}
    scripted.error = None
    scripted.allow(1)
    async with session.get(f"{url}/health") as response:
        assert response.status == 200
        assert await response.read() == b""
