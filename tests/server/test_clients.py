"""Clients that were written for TGI and OpenAI talk to the embedded server as to the real ones."""

from __future__ import annotations

import openai
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, OverloadedError, ValidationError
from langchain_huggingface import HuggingFaceEndpoint

from aligner_chains import Aligner
from aligner_chains.server import Limits

NAME = "aligner-chains/aligner-nano"


@pytest.fixture
async def text(session, url, prompt) -> str:
    """What the model writes."""
    async with session.post(f"{url}/generate", json={"inputs": prompt, "parameters": {}}) as response:
        return (await response.json())["generated_text"]


def test_inference_client(url, prompt, text):
    with InferenceClient(url) as client:
        assert client.text_generation(prompt, return_full_text=False) == text
        details = client.text_generation(prompt, details=True, decoder_input_details=True, return_full_text=False)
    assert details.generated_text == text
    assert details.details.finish_reason == "eos_token"
    assert len(details.details.tokens) == details.details.generated_tokens
    assert details.details.prefill[0].logprob is None


def test_inference_client_streams(url, prompt, text):
    with InferenceClient(url) as client:
        pieces = list(client.text_generation(prompt, stream=True, return_full_text=False))
        *_, last = client.text_generation(prompt, stream=True, details=True, return_full_text=False)
    assert "".join(pieces).removesuffix("</s>") == text
    assert last.generated_text == text
    assert last.details.finish_reason == "eos_token"


async def test_async_inference_client(url, prompt, text):
    async with AsyncInferenceClient(url) as client:
        assert await client.text_generation(prompt, return_full_text=False) == text
        stream = await client.text_generation(prompt, stream=True, details=True, return_full_text=False)
        events = [event async for event in stream]
    assert "".join(event.token.text for event in events if not event.token.special) == text
    assert events[-1].details.generated_tokens == len(events)


async def test_inference_clients_name_the_error(url, serve_model, scripted, session):
    with InferenceClient(url) as client:
        with pytest.raises(ValidationError, match="`top_p` must be"):
            client.text_generation("a", top_p=1.0)
        with pytest.raises(ValidationError, match="`top_p` must be"):
            list(client.text_generation("a", top_p=1.0, stream=True))
    busy = serve_model(scripted, limits=Limits(max_concurrent_requests=1), api_key="key")
    async with session.post(
        f"{busy}/generate_stream", json={"inputs": "a"}, headers={"Authorization": "Bearer key"}
    ) as stream:
        scripted.allow(2)
        await stream.content.readuntil(b"\n\n")
        async with AsyncInferenceClient(busy, token="key") as client:
            with pytest.raises(OverloadedError, match="Model is overloaded"):
                await client.text_generation("a")
        async with AsyncInferenceClient(busy, token="wrong") as client:
            with pytest.raises(HfHubHTTPError) as error:
                await client.text_generation("a")
            assert error.value.response.status_code == 401


@pytest.fixture
async def endpoint(url):
    """Makes LangChain's client, and closes what it opens."""
    made = []

    def make(**options):
        made.append(HuggingFaceEndpoint(endpoint_url=url, return_full_text=False, **options))
        return made[-1]

    yield make
    for endpoint in made:
        endpoint.client.close()
        await endpoint.async_client.close()


async def test_langchain_endpoint(endpoint, prompt, text):
    greedy = {"temperature": None, "top_k": None, "top_p": None, "typical_p": None, "repetition_penalty": None}
    llm = endpoint(max_new_tokens=100, **greedy)
    assert llm.invoke(prompt) == text
    assert await llm.ainvoke(prompt) == text
    assert "".join(llm.stream(prompt)).removesuffix("</s>") == text
    assert "".join([piece async for piece in llm.astream(prompt)]).removesuffix("</s>") == text
    drawn = endpoint(max_new_tokens=5, seed=7)
    assert drawn.invoke(prompt) == drawn.invoke(prompt)


def test_openai_client(url, prompt, text):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        completion = client.completions.create(model=NAME, prompt=prompt, temperature=0, logprobs=1)
        assert completion.choices[0].text == text
        assert completion.choices[0].finish_reason == "stop"
        assert len(completion.choices[0].logprobs.token_logprobs) == completion.usage.completion_tokens
        chunks = list(
            client.completions.create(
                model="tgi", prompt=prompt, temperature=0, stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == text
        assert chunks[-1].usage == completion.usage
        assert [model.id for model in client.models.list()] == [NAME]
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            client.completions.create(model="tgi", prompt="a", top_p=1)
        assert "`top_p` must be" in refused.value.response.json()["error"]
        with pytest.raises(openai.APIError, match="`top_p` must be"):
            list(client.completions.create(model="tgi", prompt="a", top_p=1, stream=True))


async def test_async_openai_client(url, prompt, text):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        completion = await client.completions.create(model="tgi", prompt=[prompt, prompt], temperature=0)
        assert [choice.text for choice in completion.choices] == [text, text]
        stream = await client.completions.create(model="tgi", prompt=prompt, temperature=0, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == text


@pytest.mark.parametrize("connect", [Aligner.from_tgi, lambda url: Aligner.from_openai(f"{url}/v1")])
def test_our_own_clients_correct_as_in_process(url, embedded, connect):
    query, draft = "What is the capital of France?", "Paris, you idiot."
    here = embedded.correct(query, draft)
    with connect(url) as aligner:
        there = aligner.correct(query, draft)
        *_, last = aligner.stream(query, draft)
    for correction in (there, last.correction):
        assert (correction.text, correction.outcome, correction.usage) == (here.text, here.outcome, here.usage)
        assert correction.confidence == pytest.approx(here.confidence, abs=1e-3)
        assert correction.model == NAME
