"""What every part is told, at construction and for one call: times, failures and lengths."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from hostile import HostileServer, hang, refuse
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.response_synthesizers import get_response_synthesizer
from models import Model
from rag import CORRECTED, DRAFT, QUERY, WAYS, Upstream, Way, found

from aligner_chains import REFUSAL, Aligner
from aligner_chains.errors import CorrectionTimeoutError
from llama_index_aligner import (
    AlignerChatEngine,
    AlignerCondensePlusContextChatEngine,
    AlignerContextChatEngine,
    AlignerFunctionAgent,
    AlignerLLM,
    AlignerPostprocessor,
    AlignerQueryEngine,
    AlignerReActAgent,
    AlignerSynthesizer,
    aligner_options,
)

pytestmark = [  # of how LlamaIndex makes its agents, and what they ask their contexts
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),
]
# What fails in the thread in which LlamaIndex's own chat engines write to memory is raised there as well.
FAILS_IN_A_THREAD_TOO = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

#: Asks a part that was made with these options, and gives the text that comes out.
Ask: TypeAlias = Callable[..., str]


def an_index() -> VectorStoreIndex:
    return VectorStoreIndex([node.node for node in found()], embed_model=MockEmbedding(embed_dim=1))


def nodes(way: Way, **options: Any) -> str:
    postprocessor = AlignerPostprocessor(**options)
    if way.is_async:
        given = asyncio.run(postprocessor.apostprocess_nodes(found(DRAFT), query_str=QUERY))
    else:
        given = postprocessor.postprocess_nodes(found(DRAFT), query_str=QUERY)
    return given[0].node.get_content() if given else REFUSAL  # which is to leave the node out


def synthesizer(way: Way, **options: Any) -> str:
    inner = get_response_synthesizer(llm=Upstream(), streaming=way.streams)
    return str(way.synthesize(AlignerSynthesizer(inner, **options))[0])


def query_engine(way: Way, **options: Any) -> str:
    inner = an_index().as_query_engine(llm=Upstream(), streaming=way.streams)
    return str(way.query(AlignerQueryEngine(inner, **options))[0])


def _chat(way: Way, engine: Any) -> str:
    async def achat() -> str:
        if not way.streams:
            return str(await engine.achat(QUERY))
        response = await engine.astream_chat(QUERY)
        return "".join([token async for token in response.async_response_gen()])

    if way.is_async:
        return asyncio.run(achat())
    return "".join(engine.stream_chat(QUERY).response_gen) if way.streams else str(engine.chat(QUERY))


def context(way: Way, **options: Any) -> str:
    engine = AlignerContextChatEngine.from_defaults(
        an_index().as_retriever(), llm=Upstream(), memory=ChatMemoryBuffer.from_defaults(), **options
    )
    return _chat(way, engine)


def condense_plus_context(way: Way, **options: Any) -> str:
    engine = AlignerCondensePlusContextChatEngine.from_defaults(
        an_index().as_retriever(), llm=Upstream(), memory=ChatMemoryBuffer.from_defaults(), **options
    )
    return _chat(way, engine)


def chat_engine(way: Way, **options: Any) -> str:
    inner = SimpleChatEngine.from_defaults(llm=Upstream(), memory=ChatMemoryBuffer.from_defaults())
    return _chat(way, AlignerChatEngine(inner, **options))


def model(way: Way, **options: Any) -> str:
    llm = AlignerLLM(llm=Model(), **options)

    async def achat() -> str:
        if not way.streams:
            return (await llm.achat([ChatMessage(QUERY)])).message.content or ""
        return "".join([response.delta or "" async for response in await llm.astream_chat([ChatMessage(QUERY)])])

    if way.is_async:
        return asyncio.run(achat())
    if way.streams:
        return "".join(response.delta or "" for response in llm.stream_chat([ChatMessage(QUERY)]))
    return llm.chat([ChatMessage(QUERY)]).message.content or ""


def _run(agent: Any) -> str:
    async def run() -> str:
        return str(await agent.run(user_msg=QUERY))

    return asyncio.run(run())


def _timed(options: dict[str, Any]) -> dict[str, Any]:
    # An agent's `timeout` is that of its run.
    return {{"timeout": "correction_timeout"}.get(name, name): value for name, value in options.items()}


def function_agent(way: Way, **options: Any) -> str:
    return _run(AlignerFunctionAgent(llm=Model(), streaming=way.streams, **_timed(options)))


def react_agent(way: Way, **options: Any) -> str:
    llm = Model(turns=(f"Thought: I know.\nAnswer: {DRAFT}",))
    return _run(AlignerReActAgent(llm=llm, streaming=way.streams, **_timed(options)))


def _cases() -> list[Any]:
    parts = {
        synthesizer: WAYS,
        query_engine: WAYS,
        context: WAYS,
        condense_plus_context: WAYS,
        chat_engine: WAYS,
        model: WAYS,
        nodes: [name for name in WAYS if not WAYS[name].streams],
        function_agent: [name for name in WAYS if WAYS[name].is_async],
        react_agent: [name for name in WAYS if WAYS[name].is_async],
    }
    return [pytest.param((part, WAYS[way]), id=f"{part.__name__}-{way}") for part in parts for way in parts[part]]


@pytest.fixture(params=_cases())
def ask(request: pytest.FixtureRequest) -> Ask:
    """Every part, in every way in which it can be asked."""
    part, way = request.param
    return lambda **options: part(way, **options)


@pytest.fixture
def never(hostile: Callable[..., HostileServer]) -> Any:
    """An Aligner that does not answer, and waits longer than these tests tell it to."""
    server = hostile(for_ever=hang)
    with Aligner.from_tgi(server.url, timeout=5) as aligner:
        yield aligner


@pytest.fixture
def broken(hostile: Callable[..., HostileServer]) -> Any:
    """An Aligner on fire."""
    server = hostile(for_ever=refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner:
        yield aligner


@FAILS_IN_A_THREAD_TOO
def test_the_time_for_all_calls(ask: Ask, never: Aligner) -> None:
    with pytest.raises(CorrectionTimeoutError, match=r"0\.05 s"):
        ask(aligner=never, timeout=0.05)


@FAILS_IN_A_THREAD_TOO
def test_the_time_for_one_call(ask: Ask, never: Aligner) -> None:
    with aligner_options(timeout=0.05), pytest.raises(CorrectionTimeoutError, match=r"0\.05 s"):
        ask(aligner=never, timeout=5)


@pytest.mark.parametrize(
    ("always", "now", "text"), [("refuse", "draft", DRAFT), ("draft", "refuse", REFUSAL)], ids=["draft", "refuse"]
)
def test_what_to_do_about_a_failure_of_one_call(always: Any, now: Any, text: str, ask: Ask, broken: Aligner) -> None:
    with aligner_options(on_failure=now):
        assert ask(aligner=broken, on_failure=always) == text
    assert ask(aligner=broken, on_failure=always) == {DRAFT: REFUSAL, REFUSAL: DRAFT}[text]


def test_the_most_tokens_for_all_calls_and_for_one(ask: Ask, aligner: Aligner, server: HostileServer) -> None:
    with aligner_options(max_new_tokens=7):
        assert ask(aligner=aligner, max_new_tokens=9) == CORRECTED
    assert ask(aligner=aligner, max_new_tokens=9) == CORRECTED
    assert [request.body["parameters"]["max_new_tokens"] for request in server.generations] == [7, 9]
