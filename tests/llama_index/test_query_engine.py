"""`AlignerQueryEngine` around every kind of engine: its answer is corrected, and is otherwise what it was."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from hostile import HostileServer
from listening import Listener
from llama_index.core import MockEmbedding, PromptTemplate, QueryBundle, Settings, SQLDatabase, VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import AsyncStreamingResponse, PydanticResponse, Response, StreamingResponse
from llama_index.core.evaluation import BaseEvaluator, EvaluationResult
from llama_index.core.indices.query.query_transform.base import IdentityQueryTransform
from llama_index.core.query_engine import (
    CitationQueryEngine,
    CustomQueryEngine,
    NLSQLTableQueryEngine,
    RetrieverQueryEngine,
    RetryQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector
from llama_index.core.tools import QueryEngineTool
from llama_index.core.types import Thread
from models import Model
from pydantic import ValidationError
from rag import CORRECTED, DRAFT, QUERY, Upstream, Way, found
from sqlalchemy import create_engine, text

from aligner_chains import Aligner
from aligner_chains.errors import InvalidTypeError
from llama_index_aligner import AlignerQueryEngine, AlignerSynthesizer, aligner_options


def an_index(*texts: str) -> VectorStoreIndex:
    return VectorStoreIndex([node.node for node in found(*texts)], embed_model=MockEmbedding(embed_dim=1))


def an_engine(way: Way, llm: Upstream | None = None) -> BaseQueryEngine:
    return an_index().as_query_engine(llm=llm or Upstream(), streaming=way.streams)


@pytest.fixture
def engine(way: Way, aligner: Aligner) -> AlignerQueryEngine:
    return AlignerQueryEngine(an_engine(way), aligner=aligner)


def test_an_answer(way: Way, engine: AlignerQueryEngine, server: HostileServer) -> None:
    answer, response = way.query(engine)
    assert answer == CORRECTED
    assert (
        type(response)
        is {
            (False, False): Response,
            (False, True): Response,
            (True, False): StreamingResponse,
            (True, True): AsyncStreamingResponse,
        }[way.streams, way.is_async]
    )
    assert [source.node_id for source in response.source_nodes] == ["node-0"]
    assert response.metadata["node-0"] == {"page": 0}
    assert response.metadata["aligner"]["outcome"] == "corrected"
    assert f": {QUERY} | {DRAFT} ASSISTANT:" in server.generations[0].prompt


def sub_questions(way: Way, tool: QueryEngineTool, *, use_async: bool = False) -> BaseQueryEngine:
    llm = Upstream(turns=['```json\n{"items": [{"sub_question": "By whom?", "tool_name": "books"}]}\n```'])
    return SubQuestionQueryEngine.from_defaults(
        [tool],
        question_gen=LLMQuestionGenerator.from_defaults(llm=llm),
        response_synthesizer=get_response_synthesizer(llm=Upstream(), streaming=way.streams),
        verbose=False,
        use_async=use_async,
    )


def sub_questions_at_once(way: Way, tool: QueryEngineTool) -> BaseQueryEngine:
    return sub_questions(way, tool, use_async=True)


def router(way: Way, tool: QueryEngineTool) -> BaseQueryEngine:
    llm = Upstream(turns=['[{"choice": 1, "reason": "It is about books."}]'])
    return RouterQueryEngine(LLMSingleSelector.from_defaults(llm=llm), [tool], llm=llm)


def many_routes(way: Way, tool: QueryEngineTool) -> BaseQueryEngine:
    llm = Upstream(turns=['[{"choice": 1, "reason": "Books."}, {"choice": 2, "reason": "Books."}]'])
    return RouterQueryEngine(LLMMultiSelector.from_defaults(llm=llm), [tool, tool], llm=Upstream())


def citations(way: Way, tool: QueryEngineTool) -> BaseQueryEngine:
    return CitationQueryEngine.from_args(an_index(), llm=Upstream(), streaming=way.streams)


def transformed(way: Way, tool: QueryEngineTool) -> BaseQueryEngine:
    return TransformQueryEngine(tool.query_engine, IdentityQueryTransform())


class Satisfied(BaseEvaluator):
    async def aevaluate(self, *args: Any, **kwargs: Any) -> EvaluationResult:
        return EvaluationResult(passing=True)

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: dict[str, Any]) -> None: ...


def retried(way: Way, tool: QueryEngineTool) -> BaseQueryEngine:
    return RetryQueryEngine(tool.query_engine, Satisfied())


class Custom(CustomQueryEngine):
    def custom_query(self, query_str: str) -> str:
        return DRAFT


def custom(way: Way, tool: QueryEngineTool) -> BaseQueryEngine:
    return Custom()


@pytest.mark.parametrize(
    "make",
    [sub_questions, sub_questions_at_once, router, many_routes, citations, transformed, retried, custom],
    ids=lambda make: make.__name__,
)
def test_any_engine(
    make: Callable[..., BaseQueryEngine], way: Way, aligner: Aligner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", Upstream())
    tool = QueryEngineTool.from_defaults(an_engine(way), name="books", description="About books.")
    answer, response = way.query(AlignerQueryEngine(make(way, tool), aligner=aligner, keep_draft=True))
    assert (answer, response.metadata["aligner"]["draft"]) == (CORRECTED, DRAFT)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of the loop that LlamaIndex makes
@pytest.mark.parametrize("use_async", [False, True])
async def test_sub_questions_to_corrected_engines_inside_a_running_loop(
    use_async: bool, aligner: Aligner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", Upstream())
    whole = Way(streams=False, is_async=False)
    tool = QueryEngineTool.from_defaults(AlignerQueryEngine(an_engine(whole), aligner=aligner), name="books")
    engine = AlignerQueryEngine(sub_questions(whole, tool, use_async=use_async), aligner=aligner)
    for response in (engine.query(QUERY), await engine.aquery(QUERY)):
        assert (str(response), response.metadata["aligner"]["outcome"]) == (CORRECTED, "corrected")
        assert response.source_nodes[0].node.get_content() == f"Sub question: By whom?\nResponse: {CORRECTED}"
    gc.collect()


def test_a_database(way: Way, aligner: Aligner) -> None:
    database = create_engine("sqlite://")
    with database.begin() as connection:
        connection.execute(text("create table books (title text, author text)"))
        connection.execute(text("insert into books values ('Faust', 'Goethe')"))
    llm = Upstream(answer=lambda prompt: "SELECT author FROM books" if prompt.endswith("SQLQuery: ") else DRAFT)
    inner = NLSQLTableQueryEngine(
        SQLDatabase(database), tables=["books"], llm=llm, embed_model=MockEmbedding(embed_dim=1), streaming=way.streams
    )
    answer, response = way.query(AlignerQueryEngine(inner, aligner=aligner))
    database.dispose()
    assert (answer, response.metadata["result"]) == (CORRECTED, [("Goethe",)])


def test_around_another_one(way: Way, engine: AlignerQueryEngine, hostile: Callable[..., HostileServer]) -> None:
    outer = hostile()
    with Aligner.from_tgi(outer.url) as aligner:
        answer, response = way.query(AlignerQueryEngine(engine, aligner=aligner))
    assert (answer, response.metadata["aligner"]["outcome"]) == (CORRECTED, "unchanged")
    assert f"| {CORRECTED} ASSISTANT:" in outer.generations[0].prompt


@pytest.mark.parametrize("is_async", [False, True])
def test_as_a_tool(is_async: bool, aligner: Aligner) -> None:
    engine = AlignerQueryEngine(an_index().as_query_engine(llm=Upstream()), aligner=aligner)
    tool = QueryEngineTool.from_defaults(engine, name="books", description="About books.")
    output = asyncio.run(tool.acall(QUERY)) if is_async else tool.call(input=QUERY)
    assert (output.content, output.raw_output.metadata["aligner"]["outcome"]) == (CORRECTED, "corrected")


def test_the_steps_of_a_query(way: Way, engine: AlignerQueryEngine) -> None:
    bundle = QueryBundle(QUERY)
    nodes = asyncio.run(engine.aretrieve(bundle)) if way.is_async else engine.retrieve(bundle)
    assert [node.node_id for node in nodes] == ["node-0"]
    more = found("A.", "B.")[1:]
    answer, response = way.run(
        lambda: engine.synthesize(bundle, nodes, more), lambda: engine.asynthesize(bundle, nodes, more)
    )
    assert (answer, response.source_nodes) == (CORRECTED, [*nodes, *more])


async def test_an_engine_that_cannot_retrieve(aligner: Aligner) -> None:
    engine = AlignerQueryEngine(Custom(), aligner=aligner)
    with pytest.raises(NotImplementedError, match="Custom has no aretrieve"):
        await engine.aretrieve(QueryBundle(QUERY))
    with pytest.raises(NotImplementedError, match="does not support retrieve"):
        engine.retrieve(QueryBundle(QUERY))


async def test_the_steps_of_a_query_are_async_in_async_code(aligner: Aligner) -> None:
    class Awaited(BaseRetriever):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            raise NotImplementedError

        async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            return found()

    llm, bundle = Model(), QueryBundle(QUERY)
    engine = AlignerQueryEngine(RetrieverQueryEngine.from_args(Awaited(), llm=llm), aligner=aligner)
    assert str(await engine.asynthesize(bundle, await engine.aretrieve(bundle))) == CORRECTED
    assert llm.called == ["achat"]


def test_an_empty_response(way: Way, aligner: Aligner, server: HostileServer) -> None:
    index = VectorStoreIndex([], embed_model=MockEmbedding(embed_dim=1))
    inner = index.as_query_engine(llm=Upstream(), streaming=way.streams)
    answer, response = way.query(AlignerQueryEngine(inner, aligner=aligner))
    assert answer == "Empty Response"
    assert response.metadata == {"aligner": {"outcome": "skipped", "reason": "no answer"}}
    assert server.requests == []


def test_prompts_have_the_names_that_they_have_without_it(aligner: Aligner) -> None:
    llm = Upstream()
    inner = an_index().as_query_engine(llm=llm)
    engine = AlignerQueryEngine(inner, aligner=aligner)
    assert engine.get_prompts().keys() == inner.get_prompts().keys()
    engine.update_prompts({"response_synthesizer:text_qa_template": PromptTemplate("{query_str} {context_str} Rhyme!")})
    engine.query(QUERY)
    assert llm.asked[0].endswith("Rhyme!")


def test_spans(way: Way, engine: AlignerQueryEngine, told: Listener) -> None:
    way.query(engine)
    ((start,), (end,)) = told.starts, told.ends
    assert (start.query, end.correction) == (QUERY, CORRECTED)
    names = [f"AlignerQueryEngine.{name}" for name in (("aquery", "_aquery") if way.is_async else ("query", "_query"))]
    assert told.path(start.span_id) == [*names, "Aligner.correct"]


def test_what_is_no_response(aligner: Aligner) -> None:
    class Broken(Custom):
        def custom_query(self, query_str: str) -> Any:
            return {"answer": DRAFT}

    with pytest.raises(InvalidTypeError, match="not <class 'dict'>"):
        AlignerQueryEngine(Broken(), aligner=aligner).query(QUERY)


def test_an_object_that_is_not_there(aligner: Aligner) -> None:
    class Empty(Custom):
        def custom_query(self, query_str: str) -> Any:
            return PydanticResponse(None)

    response = AlignerQueryEngine(Empty(), aligner=aligner).query(QUERY)
    assert response == PydanticResponse(None, metadata={"aligner": {"outcome": "skipped", "reason": "no text"}})


def test_what_is_no_option() -> None:
    with pytest.raises(ValidationError, match="feedbak"):
        AlignerQueryEngine(Custom(), feedbak="empathetic")


def test_options_hold_where_the_context_is_copied(aligner: Aligner, server: HostileServer) -> None:
    engine = AlignerQueryEngine(Custom(), aligner=aligner)

    def in_threads(make: Callable[..., threading.Thread]) -> None:
        thread = make(target=engine.query, args=(QUERY,))
        thread.start()
        thread.join()

    def in_a_pool() -> None:
        with ThreadPoolExecutor() as pool:
            pool.submit(engine.query, QUERY).result()

    async def in_tasks() -> None:
        await asyncio.create_task(engine.aquery(QUERY))
        await asyncio.to_thread(engine.query, QUERY)

    with aligner_options(feedback="concise"):
        asyncio.run(in_tasks())
        in_threads(Thread)  # LlamaIndex's own, in which its chats stream
        in_threads(lambda **options: threading.Thread(target=copy_context().run, args=(engine.query, QUERY)))
        in_threads(threading.Thread)
        in_a_pool()
    said = ["more concise" in request.prompt for request in server.generations]
    assert said == [True, True, True, True, False, False]


def only_retrieving(way: Way, aligner: Aligner) -> dict[str, BaseQueryEngine]:
    synthesizer = get_response_synthesizer(llm=Upstream(), response_mode="context_only", streaming=way.streams)
    index = an_index(DRAFT)
    plain = index.as_query_engine(llm=Upstream(), response_synthesizer=synthesizer)
    guarded = AlignerSynthesizer(AlignerSynthesizer(synthesizer, aligner=aligner), aligner=aligner)
    return {
        "plain": plain,
        "citations": CitationQueryEngine.from_args(index, llm=Upstream(), response_synthesizer=synthesizer),
        "guarded": index.as_query_engine(llm=Upstream(), response_synthesizer=guarded),
        "transformed": TransformQueryEngine(plain, IdentityQueryTransform()),
        "retried": RetryQueryEngine(plain, Satisfied()),
        "around another one": AlignerQueryEngine(plain, aligner=aligner),
    }


@pytest.mark.parametrize("name", ["plain", "citations", "guarded", "transformed", "retried", "around another one"])
def test_an_engine_that_only_retrieves(
    name: str, way: Way, aligner: Aligner, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", Upstream())
    inner = only_retrieving(way, aligner)[name]
    answer, response = way.query(AlignerQueryEngine(inner, aligner=aligner))
    assert DRAFT in answer
    assert response.metadata["aligner"] == {"outcome": "skipped", "reason": "retrieved text"}
    assert response.source_nodes
    assert server.requests == []


def test_the_steps_of_a_query_that_only_retrieves(
    way: Way, aligner: Aligner, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", Upstream())
    engine = AlignerQueryEngine(only_retrieving(way, aligner)["plain"], aligner=aligner)
    bundle = QueryBundle(QUERY)
    answer, _ = way.run(
        lambda: engine.synthesize(bundle, found(DRAFT)), lambda: engine.asynthesize(bundle, found(DRAFT))
    )
    assert answer.endswith(DRAFT)
    assert server.requests == []


def test_answers_of_models_are_corrected_where_only_a_synthesizer_says_that_they_were_retrieved(
    way: Way, aligner: Aligner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", Upstream())
    tool = QueryEngineTool.from_defaults(an_engine(Way(False, False)), name="books", description="About books.")
    inner = sub_questions(way, tool)
    inner._response_synthesizer = get_response_synthesizer(llm=Upstream(), response_mode="context_only")
    answer, response = way.query(AlignerQueryEngine(inner, aligner=aligner))
    assert "idiot" not in answer
    assert response.metadata["aligner"]["outcome"] == "corrected"


def test_an_engine_of_ones_own_is_not_taken_for_one_that_only_retrieves(
    way: Way, aligner: Aligner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", Upstream())

    class Rude(RetrieverQueryEngine):
        def _query(self, query_bundle: QueryBundle) -> Any:
            return Response(DRAFT)

        async def _aquery(self, query_bundle: QueryBundle) -> Any:
            return Response(DRAFT)

    synthesizer = get_response_synthesizer(llm=Upstream(), response_mode="context_only")
    inner = Rude(an_index().as_retriever(), synthesizer)
    assert way.query(AlignerQueryEngine(inner, aligner=aligner))[0] == CORRECTED


@pytest.mark.parametrize("name", ["plain", "guarded", "transformed", "retried", "around another one"])
def test_an_empty_response_of_an_engines_own(
    name: str, way: Way, aligner: Aligner, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "_llm", Upstream())
    synthesizer = get_response_synthesizer(llm=Upstream(), streaming=way.streams)
    synthesizer._empty_response = "Nothing found, you idiot."
    index = VectorStoreIndex([], embed_model=MockEmbedding(embed_dim=1))
    plain = index.as_query_engine(llm=Upstream(), response_synthesizer=synthesizer)
    guarded = AlignerSynthesizer(synthesizer, aligner=aligner)
    inner = {
        "plain": plain,
        "guarded": index.as_query_engine(llm=Upstream(), response_synthesizer=guarded),
        "transformed": TransformQueryEngine(plain, IdentityQueryTransform()),
        "retried": RetryQueryEngine(plain, Satisfied()),
        "around another one": AlignerQueryEngine(plain, aligner=aligner),
    }[name]
    answer, response = way.query(AlignerQueryEngine(inner, aligner=aligner))
    assert answer == "Nothing found, you idiot."
    assert response.metadata["aligner"] == {"outcome": "skipped", "reason": "no answer"}
    assert server.requests == []
