"""Many queries at once: no answer meets another's question, and the event loop is never blocked."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conversations import Conversations, conversation
from hostile import Call, HostileServer, refuse, speak
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.response_synthesizers import get_response_synthesizer
from models import Model, calling
from rag import DRAFT, Upstream, found

from aligner_chains import Aligner
from llama_index_aligner import (
    AlignerChatEngine,
    AlignerFunctionAgent,
    AlignerLLM,
    AlignerPostprocessor,
    AlignerQueryEngine,
    AlignerReActAgent,
    AlignerSynthesizer,
)


def numbered(asked: str) -> str:
    """A draft that tells which question it answers."""
    number = re.findall(r"number (\d+)", asked)[-1]
    return f"An answer to number {number}, you idiot."


def an_index() -> VectorStoreIndex:
    return VectorStoreIndex([node.node for node in found()], embed_model=MockEmbedding(embed_dim=1))


def synthesizer(aligner: Aligner, **options: Any) -> AlignerSynthesizer:
    inner = get_response_synthesizer(llm=Upstream(answer=numbered), **options)
    return AlignerSynthesizer(inner, aligner=aligner, keep_draft=True)


def rag(aligner: Aligner) -> Any:
    return an_index().as_query_engine(Upstream(), response_synthesizer=synthesizer(aligner))


def any_engine(aligner: Aligner) -> Any:
    return AlignerQueryEngine(
        an_index().as_query_engine(llm=Upstream(answer=numbered)), aligner=aligner, keep_draft=True
    )


class Querying:
    """A query engine that is asked a question."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def ask(self, question: str) -> tuple[str, Any]:
        response = self._engine.query(question)
        return str(response), response.metadata["aligner"]

    async def aask(self, question: str) -> tuple[str, Any]:
        response = await self._engine.aquery(question)
        return str(response), response.metadata["aligner"]


def a_rag(aligner: Aligner) -> Querying:
    return Querying(rag(aligner))


def an_aligned_engine(aligner: Aligner) -> Querying:
    return Querying(any_engine(aligner))


class Postprocessing:
    """A postprocessor that gets a node with a draft for the question."""

    def __init__(self, aligner: Aligner) -> None:
        self._postprocessor = AlignerPostprocessor(aligner=aligner, keep_draft=True)

    def ask(self, question: str) -> tuple[str, Any]:
        (given,) = self._postprocessor.postprocess_nodes(found(numbered(question)), query_str=question)
        return given.node.get_content(), given.node.metadata["aligner"]

    async def aask(self, question: str) -> tuple[str, Any]:
        (given,) = await self._postprocessor.apostprocess_nodes(found(numbered(question)), query_str=question)
        return given.node.get_content(), given.node.metadata["aligner"]


class AskingAModel:
    """A model that is asked a question."""

    def __init__(self, aligner: Aligner) -> None:
        self._llm = AlignerLLM(llm=Model(answer=numbered), aligner=aligner, keep_draft=True)

    def ask(self, question: str) -> tuple[str, Any]:
        response = self._llm.chat([ChatMessage(question)])
        return str(response.message.content), response.additional_kwargs["aligner"]

    async def aask(self, question: str) -> tuple[str, Any]:
        response = await self._llm.achat([ChatMessage(question)])
        return str(response.message.content), response.additional_kwargs["aligner"]

    async def astream(self, question: str) -> str:
        stream = await self._llm.astream_chat([ChatMessage(question)])
        return "".join([response.delta or "" async for response in stream])


class Chatting:
    """A chat engine whose users have a conversation each."""

    def __init__(self, aligner: Aligner) -> None:
        inner = SimpleChatEngine.from_defaults(llm=Upstream(answer=numbered), memory=Conversations())
        self._engine = AlignerChatEngine(inner, aligner=aligner, keep_draft=True)

    def ask(self, question: str) -> tuple[str, Any]:
        conversation.set(question)
        response = self._engine.chat(question)
        return str(response), response.metadata["aligner"]

    async def aask(self, question: str) -> tuple[str, Any]:
        conversation.set(question)
        response = await self._engine.achat(question)
        return str(response), response.metadata["aligner"]

    async def astream(self, question: str) -> str:
        conversation.set(question)
        response = await self._engine.astream_chat(question)
        return "".join([token async for token in response.async_response_gen()])


class Streaming:
    """A RAG engine that streams its answer."""

    def __init__(self, aligner: Aligner) -> None:
        self._engine = an_index().as_query_engine(Upstream(), response_synthesizer=synthesizer(aligner, streaming=True))

    async def astream(self, question: str) -> str:
        response = await self._engine.aquery(question)
        return "".join([token async for token in response.async_response_gen()])


PARTS = pytest.mark.parametrize("make", [a_rag, an_aligned_engine, Postprocessing, AskingAModel, Chatting])
NUMBERS = range(1000, 1200)


def a_question(number: int) -> str:
    return f"What is number {number}?"


def check(number: int, text: str, told: Any) -> None:
    assert text == f"An answer to number {number}."
    assert told["draft"] == f"An answer to number {number}, you idiot."


def check_prompts(server: HostileServer) -> None:
    pairs = [re.findall(r"number (\d+)", request.prompt) for request in server.generations]
    assert sorted(pairs) == [[str(number)] * 2 for number in NUMBERS]


@PARTS
async def test_no_answer_meets_anothers_question(
    make: Callable[[Aligner], Any], aligner: Aligner, server: HostileServer
) -> None:
    part = make(aligner)
    answers = await asyncio.gather(*(part.aask(a_question(number)) for number in NUMBERS))
    for number, answer in zip(NUMBERS, answers, strict=True):
        check(number, *answer)
    check_prompts(server)


@PARTS
def test_no_answer_meets_anothers_question_in_threads(
    make: Callable[[Aligner], Any], aligner: Aligner, server: HostileServer
) -> None:
    part = make(aligner)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda number: part.ask(a_question(number)), NUMBERS))
    for number, answer in zip(NUMBERS, answers, strict=True):
        check(number, *answer)
    check_prompts(server)


@pytest.mark.parametrize("make", [Streaming, AskingAModel, Chatting])
async def test_no_stream_meets_anothers_question(
    make: Callable[[Aligner], Any], aligner: Aligner, server: HostileServer
) -> None:
    part = make(aligner)
    texts = await asyncio.gather(*(part.astream(a_question(number)) for number in NUMBERS))
    assert texts == [f"An answer to number {number}." for number in NUMBERS]
    check_prompts(server)


def a_function_agent(aligner: Aligner) -> Any:
    return AlignerFunctionAgent(llm=Model(answer=numbered), aligner=aligner, keep_draft=True)


def a_react_agent(aligner: Aligner, **options: Any) -> Any:
    llm = Model(answer=lambda asked: f"Thought: I know.\nAnswer: {numbered(asked)}")
    return AlignerReActAgent(llm=llm, aligner=aligner, keep_draft=True, **options)


def a_team(aligner: Aligner) -> Any:
    clerk = AlignerFunctionAgent(
        name="clerk",
        description="Hands over.",
        llm=Model(answer=lambda asked: calling("handoff", to_agent="poet", reason=numbered(asked))),
        aligner=aligner,
        can_handoff_to=["poet"],
    )
    return AgentWorkflow([clerk, a_react_agent(aligner, name="poet", description="Knows.")], root_agent="clerk")


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
@pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning")
@pytest.mark.parametrize("make", [a_function_agent, a_react_agent, a_team])
async def test_no_run_of_an_agent_meets_anothers_question(
    make: Callable[[Aligner], Any], aligner: Aligner, server: HostileServer
) -> None:
    agent = make(aligner)

    async def ask(number: int) -> Any:
        return await agent.run(user_msg=a_question(number))

    outputs = await asyncio.gather(*map(ask, NUMBERS))
    for number, output in zip(NUMBERS, outputs, strict=True):
        check(number, str(output), output["aligner"])
    check_prompts(server)


class Gate:
    """Keeps the server's answers back until so many requests wait for one, and somebody else has worked meanwhile.

    A loop that is blocked sends one request and waits for it: after a while the gate refuses that one and all that
    follow, so that a test fails and does not hang.
    """

    PATIENCE = 30  # seconds; a loop that is not blocked sends all its requests in one or two

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting = 0
        self._is_over = False
        self.is_full, self.is_open = threading.Event(), threading.Event()

    async def behave(self, call: Call) -> None:
        self._waiting += 1
        if self._waiting == self._number:
            self.is_full.set()
        for _ in range(100 * self.PATIENCE):
            if self._is_over or self.is_open.is_set():
                break
            await asyncio.sleep(0.01)
        self._is_over = not self.is_open.is_set()
        await (refuse(424, "generation", "nobody else could work") if self._is_over else speak())(call)

    async def tick(self) -> None:
        """Works in the loop of the requests, where it gets its turn only if nothing blocks."""
        assert await asyncio.to_thread(self.is_full.wait, 2 * self.PATIENCE), "too few requests came in"
        for _ in range(100):
            await asyncio.sleep(0)
        self.is_open.set()


Ask = Callable[[Aligner], Callable[[], Awaitable[Any]]]


def querying(aligner: Aligner) -> Callable[[], Awaitable[Any]]:
    return lambda: rag(aligner).aquery("What is number 1?")


def querying_any_engine(aligner: Aligner) -> Callable[[], Awaitable[Any]]:
    return lambda: any_engine(aligner).aquery("What is number 1?")


def postprocessing(aligner: Aligner) -> Callable[[], Awaitable[Any]]:
    return lambda: AlignerPostprocessor(aligner=aligner).apostprocess_nodes(found(DRAFT), query_str="Who?")


def asking_a_model(aligner: Aligner) -> Callable[[], Awaitable[Any]]:
    return lambda: AlignerLLM(llm=Model(), aligner=aligner).achat([ChatMessage("Who?")])


def streaming_from_a_model(aligner: Aligner) -> Callable[[], Awaitable[Any]]:
    async def ask() -> list[Any]:
        stream = await AlignerLLM(llm=Model(), aligner=aligner).astream_chat([ChatMessage("Who?")])
        return [response async for response in stream]

    return ask


def chatting(aligner: Aligner) -> Callable[[], Awaitable[Any]]:
    engine = SimpleChatEngine.from_defaults(llm=Upstream(), memory=ChatMemoryBuffer.from_defaults())
    return lambda: AlignerChatEngine(engine, aligner=aligner).achat("Who?")


def running_an_agent(aligner: Aligner) -> Callable[[], Awaitable[Any]]:
    async def ask() -> Any:
        return await AlignerFunctionAgent(llm=Model(), aligner=aligner).run(user_msg="Who?")

    return ask


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [
        querying,
        querying_any_engine,
        postprocessing,
        asking_a_model,
        streaming_from_a_model,
        chatting,
        running_an_agent,
    ],
)
async def test_the_loop_goes_on_beside_fifty(make: Ask, hostile: Callable[..., HostileServer]) -> None:
    gate = Gate(50)
    server = hostile(for_ever=gate.behave)
    async with Aligner.from_tgi(server.url) as aligner:
        ask = make(aligner)
        await asyncio.gather(gate.tick(), *(ask() for _ in range(50)))
    assert len(server.generations) == 50
