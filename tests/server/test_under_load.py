"""Many requests, requests that are given up, and the end of the server."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import aiohttp
import anyio
import pytest
from server_events import events_of
from server_models import ScriptedModel, WatchedModel

from aligner_chains.backends.local import LocalBackend
from aligner_chains.errors import ConfigurationError
from aligner_chains.server import Limits, serve

BODY = {"inputs": "Hello", "parameters": {"max_new_tokens": 3, "details": True}}


async def until(holds: Callable) -> None:
    """Waits for what has to become true; a test that waits in vain is ended by its own patience."""
    with anyio.fail_after(30):
        while not await holds():  # noqa: ASYNC110  # nothing announces what the server's metrics tell
            await asyncio.sleep(0.01)


@pytest.fixture
def queue(count):
    async def holds(url, waiting):
        async def is_so():
            return await count(url, "tgi_queue_size") == waiting

        await until(is_so)

    return holds


async def test_beyond_the_places_requests_are_refused_at_once(session, serve_model, scripted, queue):
    url = serve_model(scripted, limits=Limits(max_concurrent_requests=2))
    async with session.post(f"{url}/generate_stream", json=BODY) as stream:
        waiting = asyncio.create_task(session.post(f"{url}/generate", json=BODY))
        await queue(url, 1)
        overloaded = {"error": "Model is overloaded", "error_type": "overloaded"}
        async with session.post(f"{url}/generate", json={"inputs": ""}) as response:
            assert response.status == 429
            assert "Retry-After" not in response.headers
            assert await response.json() == overloaded
        async with session.post(f"{url}/generate_stream", json=BODY) as response:
            assert await events_of(response) == [overloaded]
        async with session.post(f"{url}/v1/completions", json={"prompt": "a"}) as response:
            assert response.status == 429
        async with session.post(f"{url}/v1/completions", json={"prompt": "a", "stream": True}) as response:
            error = {"error": {"message": "Model is overloaded", "http_status_code": 429}}
            assert await events_of(response) == [error, "[DONE]"]
        async with session.post(f"{url}/tokenize", json={"inputs": "a"}) as response:
            assert response.status == 200
        # The place is held until the stream's last token, not only until its first.
        scripted.allow(2)
        assert (await stream.content.readuntil(b"\n\n")).startswith(b"data: ")
        async with session.post(f"{url}/generate", json=BODY) as response:
            assert response.status == 429
        scripted.allow(1)
        assert (await events_of(stream))[-1]["generated_text"] == "0 1 2 "
    scripted.allow(6)
    async with await waiting as response:
        assert response.status == 200
        assert int(response.headers["x-queue-time"]) > 0
    async with session.post(f"{url}/generate", json=BODY) as response:
        assert response.status == 200


async def test_all_requests_within_the_places_are_answered(session, url, prompt):
    async def ask():
        async with session.post(f"{url}/generate", json={"inputs": prompt, "parameters": {}}) as response:
            return (await response.json())["generated_text"]

    answers = await asyncio.gather(*(ask() for _ in range(20)))
    assert len(set(answers)) == 1


async def test_the_model_stops_when_its_client_goes(session, serve_model, embedded_backend, prompt, count):
    model = WatchedModel(embedded_backend.model)
    url = serve_model(model)
    endless = {"temperature": 1e6, "seed": 1, "max_new_tokens": 900}
    async with session.post(f"{url}/generate_stream", json={"inputs": prompt, "parameters": endless}) as response:
        await response.content.readuntil(b"\n\n")
        response.close()
    async with session.post(
        f"{url}/generate", json={"inputs": prompt, "parameters": {"max_new_tokens": 1}}
    ) as response:
        assert response.status == 200
    assert model.ended == ["cancelled", "length"]
    assert model.written[0] < 900
    assert await count(url, 'tgi_request_failure{err="cancelled"}') == 1


@pytest.mark.parametrize("route", ["/generate", "/generate_stream", "/v1/completions"])
async def test_running_requests_are_dropped_with_their_client(session, serve_model, scripted, count, route):
    url = serve_model(scripted)
    asking = asyncio.create_task(session.post(url + route, json={"prompt": "a"} if "v1" in route else BODY))

    async def has_begun():
        return len(scripted.began) == 1

    await until(has_begun)
    await drop(asking)

    async def has_ended():
        return scripted.ended == ["cancelled"] and await count(url, 'tgi_request_failure{err="cancelled"}') == 1

    await until(has_ended)


@pytest.mark.parametrize("route", ["/generate", "/generate_stream", "/v1/completions"])
async def test_waiting_requests_are_dropped_with_their_client(session, serve_model, scripted, queue, route):
    url = serve_model(scripted)
    async with session.post(f"{url}/generate_stream", json=BODY) as stream:
        asking = asyncio.create_task(session.post(url + route, json={"prompt": "a"} if "v1" in route else BODY))
        await queue(url, 1)
        await drop(asking)
        await queue(url, 0)
        scripted.allow(100)
        assert (await events_of(stream))[-1]["generated_text"] == "0 1 2 "
    async with session.post(f"{url}/generate", json=BODY) as response:
        assert response.status == 200
    assert len(scripted.began) == 2


async def drop(asking: asyncio.Task[aiohttp.ClientResponse]) -> None:
    """Gives a request up, in whatever state it is."""
    if asking.done():
        asking.result().close()
        return
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_client_that_does_not_read_keeps_nobody_waiting(session, serve_model, embedded_backend):
    # More than the buffers on its way hold.
    model = ScriptedModel(embedded_backend.model, padding=" " * 20_000)
    url = serve_model(model)
    model.allow(1001)
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 1000}}
    async with session.post(f"{url}/generate_stream", json=body) as unread:
        async with session.post(
            f"{url}/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 1}}
        ) as response:
            assert (await response.json())["generated_text"].strip() == "0"
        assert not unread.content.at_eof()
    assert model.ended == ["length", "length"]


async def test_a_silent_stream_sends_comments(session, serve_model, scripted):
    url = serve_model(scripted, keep_alive=0.01)
    async with session.post(f"{url}/generate_stream", json=BODY) as response:
        assert await response.content.readuntil(b"\n\n") == b":\n\n"
        scripted.allow(3)
        assert (await events_of(response))[-1]["generated_text"] == "0 1 2 "


async def test_a_failure_in_a_stream_is_an_event(session, serve_model, scripted):
    url = serve_model(scripted)
    scripted.error = RuntimeError("out of memory")
    async with session.post(f"{url}/generate_stream", json=BODY) as response:
        (failure,) = await events_of(response)
    assert failure["error"].endswith("RuntimeError: out of memory.")
    assert failure["error_type"] == "generation"
    async with session.post(f"{url}/v1/completions", json={"prompt": "a", "stream": True}) as response:
        error = {"message": failure["error"], "http_status_code": 424}
        assert await events_of(response) == [{"error": error}, "[DONE]"]


async def test_a_model_that_is_taken_away_fails_what_it_was_writing(session, scripted):
    backend = LocalBackend(scripted, name="scripted")
    async with serving(backend) as (url, _), session.post(f"{url}/generate_stream", json=BODY) as stream:
        scripted.allow(2)
        await stream.content.readuntil(b"\n\n")
        await backend.aclose()
        assert (await events_of(stream))[-1]["error_type"] == "generation"
        async with session.post(f"{url}/generate", json=BODY) as response:
            assert response.status == 424


class serving:  # noqa: N801  # used like a function
    """Runs `serve` in this loop."""

    def __init__(self, backend: LocalBackend, **options) -> None:
        self.ready = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(serve(backend, port=0, on_ready=self.ready.set_result, **options))

    async def __aenter__(self):
        await asyncio.wait({self.task, self.ready}, return_when=asyncio.FIRST_COMPLETED)
        return await self.ready, self.task

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait({self.task})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_at_the_end_requests_are_finished_and_no_more_are_taken(scripted, session, number):
    backend = LocalBackend(scripted, name="scripted")
    async with serving(backend) as (url, task), session.post(f"{url}/generate_stream", json=BODY) as stream:
        scripted.allow(2)
        await stream.content.readuntil(b"\n\n")
        os.kill(os.getpid(), number)

        async def is_refused():
            async with aiohttp.ClientSession() as newcomer:
                try:
                    async with newcomer.get(f"{url}/health"):
                        return False
                except aiohttp.ClientConnectionError:
                    return True

        await until(is_refused)
        assert not task.done()
        scripted.allow(1)
        assert (await events_of(stream))[-1]["generated_text"] == "0 1 2 "
        await task
    await backend.aclose()


@pytest.mark.parametrize("grace", [0, 0.05])
async def test_what_does_not_finish_in_time_is_broken_off(scripted, session, grace):
    backend = LocalBackend(scripted, name="scripted")
    async with (
        serving(backend, grace=grace) as (url, task),
        session.post(f"{url}/generate_stream", json=BODY) as stream,
    ):
        scripted.allow(2)
        await stream.content.readuntil(b"\n\n")
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(aiohttp.ClientError):
            await stream.read()
        await task

    async def has_stopped():
        return scripted.ended == ["cancelled"]

    await until(has_stopped)
    await backend.aclose()


async def test_a_port_that_is_taken_is_named(scripted):
    backend = LocalBackend(scripted, name="scripted")
    async with serving(backend) as (url, _):
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(ConfigurationError, match=f"port {port}: .*Choose another port"):
            await serve(backend, port=port)
    await backend.aclose()
