"""The LangChain classes as a type checker sees them: mypy --strict and pyright's strict mode accept this file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

# LangChain leaves a type parameter of its checkpointers open.
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType]
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from typing_extensions import assert_type

from aligner_chains import Aligner, Feedback
from langchain_aligner import AlignedChatModel, AlignerMiddleware, AlignerRunnable


def pipe(llm: BaseChatModel, aligner: Aligner) -> None:
    """A chain with a correction in it."""
    prompt = ChatPromptTemplate.from_template("{question}")
    chain = prompt | llm | AlignerRunnable(aligner=aligner, feedback=Feedback.EMPATHETIC) | StrOutputParser()
    assert_type(chain.invoke({"question": "Who?"}, {"configurable": {"feedback": "concise"}}), str)
    assert_type(chain.with_config(configurable={"on_failure": "draft"}).batch([{"question": "Who?"}]), list[str])


def alone() -> AIMessage:
    """All that the runnable takes; what comes in comes out, which no type says."""
    runnable = AlignerRunnable(query=lambda message: str(message.text), on_failure="draft", conversation="full")
    answer: AIMessage = runnable.invoke(AIMessage("Goethe, you idiot."))
    same: AIMessage = runnable.invoke([HumanMessage("Who?"), answer])
    text: str = runnable.bind(feedback="empathetic").invoke({"query": "Who?", "draft": "Goethe."})
    return same.model_copy(update={"content": runnable.invoke(text)})


def stream(llm: BaseChatModel) -> Iterator[str]:
    """A corrected answer as it is written."""
    for chunk in (llm | AlignerRunnable()).stream("Who wrote Faust?"):
        yield chunk.text


async def model(llm: BaseChatModel, aligner: Aligner) -> AsyncIterator[AIMessageChunk]:
    """A chat model, and one that goes where chat models go."""
    aligned = AlignedChatModel(llm=llm, aligner=aligner, feedback="concise", timeout=10, keep_draft=True)
    assert_type(aligned.invoke("Who wrote Faust?"), AIMessage)
    assert_type(await aligned.ainvoke("Who wrote Faust?"), AIMessage)
    pipe(aligned, aligner)
    async for chunk in aligned.astream("Who wrote Faust?"):
        yield chunk


def agent(llm: BaseChatModel, aligner: Aligner) -> object:
    """An agent whose answers are corrected."""
    middleware = AlignerMiddleware(aligner=aligner, on_failure="refuse", max_new_tokens=512)
    return create_agent(llm, [], middleware=[middleware])
