"""`AlignerLLM` and the steps of programs: what a prompt template or a prompt of LlamaIndex's own asks for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hostile import HostileServer
from listening import Listener
from llama_index.core import MockEmbedding, PromptTemplate, SQLDatabase, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.chat_engine.condense_plus_context import DEFAULT_CONDENSE_PROMPT_TEMPLATE
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.prompts.default_prompts import DEFAULT_KEYWORD_EXTRACT_TEMPLATE, DEFAULT_TEXT_QA_PROMPT
from llama_index.core.prompts.prompt_type import PromptType
from llama_index.core.query_engine import NLSQLTableQueryEngine
from llama_index.core.retrievers import BaseRetriever, QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import QUERY_GEN_PROMPT
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.types import BaseOutputParser
from models import Model
from rag import CORRECTED, DRAFT, QUERY, Upstream, Way, found
from sqlalchemy import create_engine, text
from variants import COMPLETIONS, PREDICTIONS, MakeLLM, Predict, Variant

from aligner_chains import Aligner
from aligner_chains.errors import ConfigurationError
from llama_index_aligner import AlignerLLM


@pytest.fixture(params=PREDICTIONS.values(), ids=PREDICTIONS)
def predict(request: pytest.FixtureRequest) -> Predict:
    return request.param


def test_a_prompt_template_tells_its_question(predict: Predict, make_llm: MakeLLM, server: HostileServer) -> None:
    assert predict(make_llm(), DEFAULT_TEXT_QA_PROMPT, context_str="Faust.", query_str=QUERY) == CORRECTED
    partial = PromptTemplate("{query_str} Answer in rhymes.").partial_format(query_str=QUERY)
    assert predict(make_llm(), partial) == CORRECTED
    assert [f": {QUERY} | {DRAFT}" in request.prompt for request in server.generations] == [True, True]


@pytest.mark.parametrize(
    "kind",
    [
        PromptType.CONVERSATION,
        PromptType.CUSTOM,
        PromptType.QUESTION_ANSWER,
        PromptType.REFINE,
        PromptType.SIMPLE_INPUT,
        PromptType.SQL_RESPONSE_SYNTHESIS,
        PromptType.SQL_RESPONSE_SYNTHESIS_V2,
        PromptType.SUMMARY,
    ],
)
def test_every_prompt_template_whose_text_a_user_reads(kind: str, make_llm: MakeLLM) -> None:
    assert make_llm().predict(PromptTemplate("{query_str}", prompt_type=kind), query_str=QUERY) == CORRECTED


@pytest.mark.parametrize("name", PREDICTIONS)
def test_spans(name: str, make_llm: MakeLLM, told: Listener) -> None:
    PREDICTIONS[name](make_llm(), PromptTemplate("{query_str}"), query_str=QUERY)
    (start,) = told.starts
    assert told.path(start.span_id) == [f"AlignerLLM.{name}", "Aligner.correct"]


def test_a_prompt_template_for_a_step_of_a_program(predict: Predict, make_llm: MakeLLM, server: HostileServer) -> None:
    assert predict(make_llm(), DEFAULT_KEYWORD_EXTRACT_TEMPLATE, text="Faust.", max_keywords=3) == DRAFT
    json, json_wanted = '{"name": "Goethe, you idiot"}', PromptTemplate("{query_str} Answer in JSON.")
    assert predict(make_llm(json), json_wanted, query_str=QUERY) == json
    assert server.requests == []


class Reader(BaseOutputParser):
    def parse(self, output: str) -> str:
        return output


@pytest.mark.parametrize("name", ["predict", "apredict"])  # LlamaIndex does not stream through a parser
@pytest.mark.parametrize(("of_model", "of_prompt"), [(Reader(), None), (None, Reader())], ids=["model", "prompt"])
def test_what_an_output_parser_reads(
    of_model: Reader | None, of_prompt: Reader | None, name: str, make_llm: MakeLLM, server: HostileServer
) -> None:
    llm = make_llm(llm=Model(output_parser=of_model))
    assert PREDICTIONS[name](llm, PromptTemplate("{query_str}", output_parser=of_prompt), query_str=QUERY) == DRAFT
    assert server.requests == []


def test_a_prompt_template_without_a_question_is_refused(predict: Predict, make_llm: MakeLLM) -> None:
    with pytest.raises(ConfigurationError, match="no variable query_str"):
        predict(make_llm(), PromptTemplate("Summarise: {text}"), text="Faust.")


@pytest.mark.parametrize(
    "variables",
    [
        {"schema": "books(title, author)", "dialect": "sqlite"},
        {"schema": "(:Book)-[:BY]->(:Author)"},
        {"schema_str": "{}", "info_str": "Books."},
        {"max_keywords": 3},
        {"num_chunks": 2, "context_list": "1. Faust. 2. Werther."},
        {"prev_reasoning": "None."},
        {"dialect": "sqlite"},
        {"num_choices": 2},
        {"num_queries": 3},
        {"context_list": "1. Faust."},
        {"num_chunks": 2},
        {"tools_str": "search"},
    ],
    ids="-".join,
)
def test_a_prompt_of_ones_own_for_a_step_that_its_variables_tell(
    variables: dict[str, Any], predict: Predict, make_llm: MakeLLM, server: HostileServer
) -> None:
    bare = PromptTemplate("Do it for {query_str}")  # the caller passes the variables even so
    named = PromptTemplate("".join(f"{{{name}}} " for name in variables) + "{query_str}")
    assert predict(make_llm(), bare, query_str=QUERY, **variables) == DRAFT
    computed = PromptTemplate(named.template, function_mappings=dict.fromkeys(variables, lambda **_: "Books."))
    assert predict(make_llm(), computed, query_str=QUERY) == DRAFT
    assert predict(make_llm(), bare.partial_format(**variables), query_str=QUERY) == DRAFT
    assert predict(make_llm(), named.partial_format(**variables), query_str=QUERY) == DRAFT
    assert server.requests == []


def test_a_prompt_that_is_said_to_be_for_answers(predict: Predict, make_llm: MakeLLM) -> None:
    prompt = PromptTemplate("{schema} {query_str}", prompt_type=PromptType.QUESTION_ANSWER)
    assert predict(make_llm(), prompt, query_str=QUERY, schema="books(title, author)") == CORRECTED


@pytest.mark.parametrize("is_async", [False, True])
def test_sql_from_a_prompt_of_ones_own(is_async: bool, aligner: Aligner) -> None:
    database = create_engine("sqlite://")
    with database.begin() as connection:
        connection.execute(text("create table books (title text, author text)"))
        connection.execute(text("insert into books values ('Faust', 'Goethe, you idiot')"))
    sql = "SELECT title FROM books WHERE author = 'Goethe, you idiot'"
    llm = Upstream(answer=lambda prompt: sql if prompt.startswith("Write SQL") else DRAFT)
    engine = NLSQLTableQueryEngine(
        SQLDatabase(database),
        text_to_sql_prompt=PromptTemplate("Write SQL for {query_str} from {schema}."),
        tables=["books"],
        llm=AlignerLLM(llm=llm, aligner=aligner),
        embed_model=MockEmbedding(embed_dim=1),
    )
    response = Way(streams=False, is_async=is_async).query(engine)[1]
    database.dispose()
    assert response.metadata["sql_query"] == sql
    assert response.metadata["result"] == [("Faust",)]
    assert str(response) == CORRECTED


@pytest.mark.parametrize("is_async", [False, True])
def test_search_queries_of_a_fusion_retriever(is_async: bool, aligner: Aligner, server: HostileServer) -> None:
    queries = "Faust, you idiot\nWho wrote it, you idiot?"
    llm = AlignerLLM(llm=Upstream(turns=(queries,)), aligner=aligner)
    asked: list[str] = []

    class Noting(BaseRetriever):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            asked.append(query_bundle.query_str)
            return found()

    retriever = QueryFusionRetriever([Noting()], llm=llm, num_queries=3, use_async=False)
    if is_async:
        asyncio.run(retriever.aretrieve(QUERY))
    else:
        retriever.retrieve(QUERY)
    assert sorted(asked) == sorted([QUERY, *queries.split("\n")])
    assert server.requests == []


@pytest.mark.parametrize("is_async", [False, True])
def test_the_standalone_question_of_a_chat(is_async: bool, aligner: Aligner) -> None:
    question = "When did Goethe write Faust, you idiot?"
    upstream = Upstream(answer=lambda prompt: question if prompt.endswith("Standalone question:") else DRAFT)
    index = VectorStoreIndex([node.node for node in found()], embed_model=MockEmbedding(embed_dim=1))
    chat = CondensePlusContextChatEngine.from_defaults(
        index.as_retriever(), llm=AlignerLLM(llm=upstream, aligner=aligner), memory=ChatMemoryBuffer.from_defaults()
    )
    for message in (QUERY, "And when?"):
        response = asyncio.run(chat.achat(message)) if is_async else chat.chat(message)
        assert str(response) == CORRECTED
    assert response.sources[0].raw_input == {"message": question}


STEPS = {
    "standalone question": DEFAULT_CONDENSE_PROMPT_TEMPLATE.format(chat_history="user: Hi.", question=QUERY),
    "search queries": QUERY_GEN_PROMPT.format(num_queries=3, query=QUERY),
}


@pytest.mark.parametrize("completion", COMPLETIONS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_llama_index_asks_for(
    name: str, completion: Variant, make_llm: MakeLLM, server: HostileServer
) -> None:
    *_, response = completion.ask(make_llm(), STEPS[name])
    assert response.text == DRAFT
    assert response.additional_kwargs["aligner"] == {"outcome": "skipped", "reason": name}
    assert server.requests == []


@pytest.mark.parametrize("completion", COMPLETIONS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_no_way_around_the_aligner(name: str, completion: Variant, make_llm: MakeLLM) -> None:
    long = f"{DRAFT} " + "And so on. " * 40 + "\nAnd on."
    for prompt, draft in (
        (f"Answer the user: {STEPS[name]}", DRAFT),
        (f"{STEPS[name]}\nAnswer in a word.", DRAFT),
        (STEPS[name], long),
    ):
        *_, response = completion.ask(make_llm(draft), prompt)
        assert response.additional_kwargs["aligner"]["outcome"] == "corrected"
        assert "idiot" not in response.text


def test_a_standalone_question_has_one_line(make_llm: MakeLLM) -> None:
    response = make_llm(f"{DRAFT}\nAnd on.").complete(STEPS["standalone question"])
    assert response.text == f"{CORRECTED}\nAnd on."
    assert make_llm(f"{DRAFT}\n").complete(STEPS["standalone question"]).text == f"{DRAFT}\n"


@pytest.mark.parametrize("name", STEPS)
def test_a_message_that_reads_like_a_step_is_corrected(name: str, chat: Variant, make_llm: MakeLLM) -> None:
    assert chat.ask(make_llm(), [ChatMessage(STEPS[name])])[-1].message.content == CORRECTED
