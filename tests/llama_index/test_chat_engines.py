"""Chat engines: the corrected answer is what the user reads, what memory holds, and what the next turn sees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from conversations import Conversations, atalk, conversation, talk
from hostile import HostileServer, refuse, speak
from listening import Listener
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ThinkingBlock
from llama_index.core.chat_engine import CondenseQuestionChatEngine, ContextChatEngine, SimpleChatEngine
from llama_index.core.chat_engine.types import AgentChatResponse, BaseChatEngine, StreamingAgentChatResponse
from llama_index.core.llms import ChatResponse
from llama_index.core.memory import BaseMemory, ChatMemoryBuffer
from pydantic import ValidationError
from rag import CORRECTED, DRAFT, QUERY, WAYS, Upstream, Way, found

from aligner_chains import REFUSAL, Aligner
from aligner_chains.errors import ConfigurationError, GenerationError, InvalidTypeError, StreamInterruptedError
from llama_index_aligner import (
    AlignerChatEngine,
    AlignerCondensePlusContextChatEngine,
    AlignerContextChatEngine,
    aligner_options,
)

NEXT = "And when?"


def an_index() -> VectorStoreIndex:
    return VectorStoreIndex([node.node for node in found()], embed_model=MockEmbedding(embed_dim=1))


def a_memory() -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults()


Make = Callable[..., BaseChatEngine]


def context(llm: Upstream, memory: BaseMemory | None = None, **options: Any) -> BaseChatEngine:
    retriever = an_index().as_retriever()
    return AlignerContextChatEngine.from_defaults(retriever, llm=llm, memory=memory or a_memory(), **options)


def condense_plus_context(llm: Upstream, memory: BaseMemory | None = None, **options: Any) -> BaseChatEngine:
    retriever = an_index().as_retriever()
    return AlignerCondensePlusContextChatEngine.from_defaults(
        retriever=retriever, llm=llm, memory=memory or a_memory(), **options
    )


def around_simple(llm: Upstream, memory: BaseMemory | None = None, **options: Any) -> BaseChatEngine:
    return AlignerChatEngine(SimpleChatEngine.from_defaults(llm=llm, memory=memory or a_memory()), **options)


def around_condense_question(llm: Upstream, memory: BaseMemory | None = None, **options: Any) -> BaseChatEngine:
    engine = an_index().as_query_engine(llm=llm)
    inner = CondenseQuestionChatEngine.from_defaults(engine, llm=llm, memory=memory or a_memory())
    return AlignerChatEngine(inner, **options)


def around_context(llm: Upstream, memory: BaseMemory | None = None, **options: Any) -> BaseChatEngine:
    inner = ContextChatEngine.from_defaults(an_index().as_retriever(), llm=llm, memory=memory or a_memory())
    return AlignerChatEngine(inner, **options)


ENGINES = [context, condense_plus_context, around_simple, around_condense_question, around_context]
WITH_SOURCES = [context, condense_plus_context, around_context]


@pytest.fixture(params=ENGINES, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


def contents(engine: BaseChatEngine) -> list[tuple[MessageRole, str | None]]:
    return [(message.role, message.content) for message in engine.chat_history]


def test_three_turns(make: Make, way: Way, aligner: Aligner, server: HostileServer) -> None:
    llm = Upstream(answer=lambda prompt: "By whom is it?" if "standalone question" in prompt else DRAFT)
    engine = make(llm, aligner=aligner)
    for number, message in enumerate((QUERY, NEXT, "Where?"), start=1):
        answer, response = talk(way, engine, message)
        assert (answer, response.response) == (CORRECTED, CORRECTED)
        assert response.metadata["aligner"]["outcome"] == "corrected"
        assert len(engine.chat_history) == 2 * number
    assert contents(engine)[2:4] == [(MessageRole.USER, NEXT), (MessageRole.ASSISTANT, CORRECTED)]
    assert "idiot" not in "".join(llm.asked)
    assert [request.prompt.rpartition(": ")[2] for request in server.generations] == [
        f"{message} | {DRAFT} ASSISTANT:" for message in (QUERY, NEXT, "Where?")
    ]
    engine.reset()
    assert engine.chat_history == []


@pytest.mark.parametrize("make", WITH_SOURCES)
def test_sources_are_kept(make: Make, way: Way, aligner: Aligner) -> None:
    _, response = talk(way, make(Upstream(), aligner=aligner))
    assert isinstance(response, StreamingAgentChatResponse if way.streams else AgentChatResponse)
    assert [source.node_id for source in response.source_nodes] == ["node-0"]
    assert [source.tool_name for source in response.sources] == ["retriever"]


def test_a_history_from_outside(make: Make, way: Way, aligner: Aligner) -> None:
    llm = Upstream()
    engine = make(llm, aligner=aligner)
    history = [ChatMessage("Who is Goethe?"), ChatMessage("A poet.", role=MessageRole.ASSISTANT)]
    assert talk(way, engine, chat_history=history)[0] == CORRECTED
    assert "A poet." in "".join(llm.asked)
    assert contents(engine)[-1] == (MessageRole.ASSISTANT, CORRECTED)


@pytest.mark.parametrize(("policy", "text"), [("draft", DRAFT), ("refuse", REFUSAL)])
def test_failures(policy: Any, text: str, make: Make, way: Way, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner:
        engine = make(Upstream(), aligner=aligner, on_failure=policy)
        answer, response = talk(way, engine)
    assert (answer, response.metadata["aligner"]["outcome"]) == (text, "failed")
    assert contents(engine) == [(MessageRole.USER, QUERY), (MessageRole.ASSISTANT, text)]


# What fails in the thread in which LlamaIndex's own engines write to memory is raised there as well.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_draft_that_fails_is_not_remembered(make: Make, way: Way, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner:
        engine = make(Upstream(), aligner=aligner)
        with pytest.raises(GenerationError, match="on fire"):
            talk(way, engine)
        assert MessageRole.ASSISTANT not in [role for role, _ in contents(engine)]
        assert talk(way, engine, NEXT)[0] == CORRECTED
    assert DRAFT not in [text for _, text in contents(engine)]


def test_a_stream_that_breaks_off_is_not_remembered(hostile: Callable[..., HostileServer]) -> None:
    server = hostile(speak(" Goethe", " wrote", end="error"))
    with Aligner.from_tgi(server.url) as aligner:
        engine = around_simple(Upstream(), aligner=aligner, on_failure="draft")
        with pytest.raises(StreamInterruptedError):
            "".join(engine.stream_chat(QUERY).response_gen)
    assert contents(engine) == [(MessageRole.USER, QUERY)]


def test_feedback_for_all_calls_and_for_one(make: Make, way: Way, aligner: Aligner, server: HostileServer) -> None:
    engine = make(Upstream(), aligner=aligner, feedback="empathetic")
    talk(way, engine)
    with aligner_options(feedback="concise"):
        talk(way, engine)
    assert ["more empathetic" in request.prompt for request in server.generations] == [True, False]
    assert "more concise" in server.generations[1].prompt


@pytest.mark.parametrize("make", [context, condense_plus_context])
def test_with_context(make: Make, way: Way, aligner: Aligner, server: HostileServer) -> None:
    _, response = talk(way, make(Upstream(), aligner=aligner, with_context=True))
    assert response.metadata["aligner"]["context"] == ["node-0"]
    assert "<passage>\npage: 0\n\nFaust is a tragedy by Goethe.\n</passage>" in server.generations[0].prompt


@pytest.mark.parametrize("make", [context, condense_plus_context])
def test_what_neither_knows(make: Make) -> None:
    with pytest.raises(InvalidTypeError, match=r"no option \['feedbak'\]"):
        make(Upstream(), feedbak="empathetic")
    with pytest.raises(ValidationError, match="on_failure"):
        make(Upstream(), on_failure="explode")


def test_without_sources_there_is_no_answer(way: Way, aligner: Aligner, server: HostileServer) -> None:
    index = VectorStoreIndex([], embed_model=MockEmbedding(embed_dim=1))
    engine = AlignerContextChatEngine.from_defaults(
        index.as_retriever(), llm=Upstream(), memory=a_memory(), aligner=aligner
    )
    answer, response = talk(way, engine)
    assert (answer, response.metadata["aligner"]["reason"]) == ("Empty Response", "no answer")
    assert server.requests == []


class Awaited(ChatMemoryBuffer):
    """A memory that is only written to with `await`, as one in a database may be."""

    def put(self, message: ChatMessage) -> None:
        raise NotImplementedError

    def put_messages(self, messages: list[ChatMessage]) -> None:
        raise NotImplementedError

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        for message in messages:
            await self.aput(message)


@pytest.mark.parametrize("name", ["aquery", "astream"])
def test_a_memory_that_is_written_to_with_await(name: str, make: Make, aligner: Aligner) -> None:
    engine = make(Upstream(), Awaited.from_defaults(), aligner=aligner)
    assert talk(WAYS[name], engine)[0] == CORRECTED
    assert contents(engine) == [(MessageRole.USER, QUERY), (MessageRole.ASSISTANT, CORRECTED)]


class Thinker(Upstream):
    """A model that thinks before it answers."""

    says: str | None = DRAFT

    def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        blocks = [ThinkingBlock(content="Hm."), *([TextBlock(text=self.says)] if self.says else [])]
        return ChatResponse(message=ChatMessage(blocks, role=MessageRole.ASSISTANT))


def test_what_is_not_text_is_remembered_too(way: Way, aligner: Aligner) -> None:
    engine = around_simple(Thinker(), aligner=aligner)
    assert talk(way, engine)[0] == CORRECTED
    assert engine.chat_history[-1].blocks == [ThinkingBlock(content="Hm."), TextBlock(text=CORRECTED)]


def test_a_model_that_says_nothing(way: Way, aligner: Aligner, server: HostileServer) -> None:
    engine = around_simple(Thinker(says=None), aligner=aligner)
    answer, response = talk(way, engine)
    assert (answer, response.metadata["aligner"]) == ("", {"outcome": "skipped", "reason": "no text"})
    assert [message.blocks for message in engine.chat_history[1:]] == [[ThinkingBlock(content="Hm.")]]
    assert server.requests == []


def test_an_engine_without_a_memory(aligner: Aligner) -> None:
    class Forgetful(SimpleChatEngine):
        def __init__(self) -> None: ...

    with pytest.raises(ConfigurationError, match="Forgetful keeps no memory"):
        AlignerChatEngine(Forgetful(), aligner=aligner)


def test_an_engine_that_always_streams(aligner: Aligner) -> None:
    class Streamer(SimpleChatEngine):
        def chat(self, message: str, chat_history: Any = None) -> Any:
            return StreamingAgentChatResponse()

    engine = Streamer.from_defaults(llm=Upstream(), memory=a_memory())
    with pytest.raises(InvalidTypeError, match="not StreamingAgentChatResponse"):
        AlignerChatEngine(engine, aligner=aligner).chat(QUERY)


def test_of_several_messages_the_last_one_is_the_draft(aligner: Aligner) -> None:
    class Announcing(SimpleChatEngine):
        def chat(self, *args: Any, **kwargs: Any) -> AgentChatResponse:
            self._memory.put(ChatMessage("Let me see.", role=MessageRole.ASSISTANT))
            return super().chat(*args, **kwargs)

    engine = AlignerChatEngine(Announcing.from_defaults(llm=Upstream(), memory=a_memory()), aligner=aligner)
    assert str(engine.chat(QUERY)) == CORRECTED
    assert [text for _, text in contents(engine)] == [QUERY, "Let me see.", CORRECTED]


def test_a_turn_that_is_put_into_memory_at_once(way: Way, aligner: Aligner) -> None:
    class AtOnce(SimpleChatEngine):
        def chat(self, message: str, chat_history: Any = None) -> AgentChatResponse:
            self._memory.put_messages([ChatMessage(message), ChatMessage(DRAFT, role=MessageRole.ASSISTANT)])
            return AgentChatResponse(DRAFT)

        async def achat(self, message: str, chat_history: Any = None) -> AgentChatResponse:
            await self._memory.aput_messages([ChatMessage(message), ChatMessage(DRAFT, role=MessageRole.ASSISTANT)])
            return AgentChatResponse(DRAFT)

    engine = AlignerChatEngine(AtOnce.from_defaults(llm=Upstream(), memory=a_memory()), aligner=aligner)
    assert talk(way, engine)[0] == CORRECTED
    assert contents(engine) == [(MessageRole.USER, QUERY), (MessageRole.ASSISTANT, CORRECTED)]


def test_what_the_engine_tells_is_kept(way: Way, aligner: Aligner) -> None:
    class Telling(SimpleChatEngine):
        def chat(self, *args: Any, **kwargs: Any) -> AgentChatResponse:
            return replace(super().chat(*args, **kwargs), metadata={"mood": "good"})

        async def achat(self, *args: Any, **kwargs: Any) -> AgentChatResponse:
            return replace(await super().achat(*args, **kwargs), metadata={"mood": "good"})

    engine = Telling.from_defaults(llm=Upstream(), memory=a_memory())
    _, response = talk(way, AlignerChatEngine(engine, aligner=aligner))
    assert (response.metadata["mood"], response.metadata["aligner"]["outcome"]) == ("good", "corrected")


def test_conversations_do_not_mix(make: Make, way: Way, aligner: Aligner, server: HostileServer) -> None:
    """Turns that are under way at once on one engine, each in a conversation of its own."""
    llm = Upstream(answer=lambda prompt: f"An answer to {prompt.rpartition('Q')[2][:3]}, you idiot.")
    memory = Conversations()
    engine = make(llm, memory, aligner=aligner, keep_draft=True)
    questions = [f"Q{number}" for number in range(100, 120)]

    def ask(question: str) -> tuple[str, Any]:
        conversation.set(question)
        return talk(way, engine, question)

    async def aask(question: str) -> tuple[str, Any]:
        conversation.set(question)
        return await atalk(way, engine, question)

    async def aask_all() -> list[tuple[str, Any]]:
        return await asyncio.gather(*map(aask, questions))

    if way.is_async:
        turns = asyncio.run(aask_all())
    else:
        with ThreadPoolExecutor(len(questions)) as pool:
            turns = list(pool.map(ask, questions))
    for question, (text, response) in zip(questions, turns, strict=True):
        assert text == f"An answer to {question[1:]}."
        assert response.metadata["aligner"]["draft"] == f"An answer to {question[1:]}, you idiot."
        assert [message.content for message in memory.messages[question]] == [question, text]
    asked = sorted(request.prompt.rpartition(": ")[2] for request in server.generations)
    assert asked == [f"{question} | An answer to {question[1:]}, you idiot. ASSISTANT:" for question in questions]


def test_spans(make: Make, way: Way, aligner: Aligner, told: Listener) -> None:
    engine = make(Upstream(), aligner=aligner)
    talk(way, engine)
    ((start,), (end,)) = told.starts, told.ends
    assert (start.query, end.correction) == (QUERY, CORRECTED)
    path = told.path(start.span_id)
    assert (path[0], path[-1]) == (f"{type(engine).__name__}.{way.method('chat')}", "Aligner.correct")
