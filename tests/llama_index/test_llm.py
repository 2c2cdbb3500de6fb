"""`AlignerLLM`: answers are corrected in all eight ways to ask; what programs read is not touched."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hostile import HostileServer, refuse, speak
from listening import Listener
from llama_index.core import MockEmbedding, PromptTemplate, SQLDatabase, VectorStoreIndex
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ImageBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.chat_engine.condense_plus_context import DEFAULT_CONDENSE_PROMPT_TEMPLATE
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
)
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program import LLMTextCompletionProgram
from llama_index.core.prompts.default_prompts import DEFAULT_KEYWORD_EXTRACT_TEMPLATE, DEFAULT_TEXT_QA_PROMPT
from llama_index.core.prompts.prompt_type import PromptType
from llama_index.core.query_engine import NLSQLTableQueryEngine
from llama_index.core.retrievers import BaseRetriever, QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import QUERY_GEN_PROMPT
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import FunctionTool, ToolMetadata
from models import Model, calling
from pydantic import BaseModel, ValidationError
from rag import CORRECTED, DRAFT, QUERY, TOLD, Upstream, Way, found
from sqlalchemy import create_engine, text

from aligner_chains import REFUSAL, Aligner
from aligner_chains.errors import ConfigurationError, GenerationError, InvalidInputError, StreamInterruptedError
from llama_index_aligner import AlignerLLM, aligner_options

ASKED = [ChatMessage("Be brief.", role=MessageRole.SYSTEM), ChatMessage(QUERY)]


@dataclass(frozen=True)
class Variant:
    """One of the eight ways; gives all responses, of which there are several if it streams."""

    name: str

    @property
    def chats(self) -> bool:
        return "chat" in self.name

    def ask(self, llm: Any, asked: Any = None, **options: Any) -> list[Any]:
        asked = asked or (ASKED if self.chats else QUERY)
        method = getattr(llm, self.name)
        if "stream" in self.name:
            return (
                asyncio.run(self._astream(method, asked, options))
                if self.name[0] == "a"
                else [*method(asked, **options)]
            )
        return [asyncio.run(method(asked, **options))] if self.name[0] == "a" else [method(asked, **options)]

    async def _astream(self, method: Any, asked: Any, options: dict[str, Any]) -> list[Any]:
        return [response async for response in await method(asked, **options)]

    def text(self, response: Any) -> str | None:
        return response.message.content if self.chats else response.text


CHATS = [Variant(name) for name in ("chat", "achat", "stream_chat", "astream_chat")]
COMPLETIONS = [Variant(name) for name in ("complete", "acomplete", "stream_complete", "astream_complete")]
STREAMS = [variant for variant in (*CHATS, *COMPLETIONS) if "stream" in variant.name]
Make = Callable[..., AlignerLLM]


@pytest.fixture(params=[*CHATS, *COMPLETIONS], ids=lambda variant: variant.name)
def variant(request: pytest.FixtureRequest) -> Variant:
    return request.param


@pytest.fixture(params=CHATS, ids=lambda variant: variant.name)
def chat(request: pytest.FixtureRequest) -> Variant:
    return request.param


@pytest.fixture
def make(aligner: Aligner) -> Make:
    return lambda *turns, **options: AlignerLLM(
        **{"llm": Model(turns=turns or (DRAFT,)), "aligner": aligner, **options}
    )


def test_an_answer(variant: Variant, make: Make, server: HostileServer) -> None:
    llm = make()
    *_, response = variant.ask(llm, temperature=0.5)
    assert variant.text(response) == CORRECTED
    assert response.raw == {"id": 7}
    told = response.additional_kwargs.pop("aligner")
    assert response.additional_kwargs == {"tokens": 3}
    assert told.pop("latency") > 0
    assert told == TOLD
    assert f": {QUERY} | {DRAFT} ASSISTANT:" in server.generations[0].prompt
    assert llm.llm.called == [variant.name]  # the upstream's own
    assert llm.llm.options[0]["temperature"] == 0.5


@pytest.mark.parametrize("variant", STREAMS, ids=lambda variant: variant.name)
def test_a_stream(variant: Variant, make: Make) -> None:
    responses = variant.ask(make())
    assert [response.delta for response in responses] == ["Goethe", " wrote", " Faust.", ""]
    assert [variant.text(response) for response in responses] == ["Goethe", "Goethe wrote", CORRECTED, CORRECTED]


def test_no_response_shows_the_draft(variant: Variant, make: Make, told: Listener) -> None:
    llm = make()
    for response in variant.ask(llm):
        assert "idiot" not in response.model_dump_json()
    events = told.of(LLMChatEndEvent) + told.of(LLMCompletionEndEvent)
    events += told.of(LLMChatInProgressEvent) + told.of(LLMCompletionInProgressEvent)
    assert "idiot" not in "".join(str(event.response) for event in events)
    assert events


def test_what_belongs_to_the_drafts_tokens_goes(chat: Variant, aligner: Aligner) -> None:
    class Sure(Model):
        def _chat(self, *args: Any) -> ChatResponse:
            return super()._chat(*args).model_copy(update={"logprobs": [[LogProb(token="Goethe", logprob=-0.1)]]})

    for draft, kept in ((DRAFT, False), (CORRECTED, True)):
        *_, response = chat.ask(AlignerLLM(llm=Sure(turns=(draft,)), aligner=aligner))
        assert (response.logprobs is not None) == kept


def test_blocks_that_are_not_text_stay_in_place(chat: Variant, make: Make) -> None:
    blocks = [ThinkingBlock(content="Hm."), TextBlock(text="Goethe wrote"), TextBlock(text="Faust, you idiot.")]
    llm = make(ChatMessage(blocks[:2], role=MessageRole.ASSISTANT), ChatMessage(blocks, role=MessageRole.ASSISTANT))
    *_, response = chat.ask(llm)
    assert response.message.blocks == blocks[:2]
    if "stream" not in chat.name:
        assert chat.ask(llm)[0].message.blocks == [blocks[0], TextBlock(text="Goethe wrote\nFaust.")]


def test_the_question_is_what_the_user_said_last(chat: Variant, make: Make, server: HostileServer) -> None:
    history = [ChatMessage("Hi."), ChatMessage("Hello.", role=MessageRole.ASSISTANT), *ASKED]
    chat.ask(make(), [*history, ChatMessage("Found.", role=MessageRole.TOOL)])
    assert f": {QUERY} | {DRAFT}" in server.generations[0].prompt


def test_without_a_question(chat: Variant, make: Make) -> None:
    for asked in (ASKED[:1], [ChatMessage(" ")]):
        with pytest.raises(InvalidInputError, match="The query is"):
            chat.ask(make(), asked)


@pytest.mark.parametrize(("policy", "text"), [("draft", DRAFT), ("refuse", REFUSAL)])
def test_failures(policy: Any, text: str, variant: Variant, make: Make, hostile: Callable[..., Any]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner:
        *_, response = variant.ask(make(aligner=aligner, on_failure=policy))
    assert variant.text(response) == text
    assert response.additional_kwargs["aligner"]["error"]["type"] == "GenerationError"


def test_a_failure_raises_by_default(variant: Variant, make: Make, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"), speak(" Goethe", end="error"))
    with Aligner.from_tgi(server.url) as aligner:
        with pytest.raises(GenerationError, match="on fire"):
            variant.ask(make(aligner=aligner))
        with pytest.raises(StreamInterruptedError if variant in STREAMS else GenerationError, match="on fire"):
            variant.ask(make(aligner=aligner))


def test_feedback_for_one_call(variant: Variant, make: Make, server: HostileServer) -> None:
    llm = make(feedback="empathetic")
    with aligner_options(feedback="concise"):
        variant.ask(llm)
    variant.ask(llm)
    assert ["more concise" in request.prompt for request in server.generations] == [True, False]


def test_a_model_that_says_nothing(variant: Variant, make: Make, server: HostileServer) -> None:
    *_, response = variant.ask(make(""))
    assert response.additional_kwargs["aligner"] == {"outcome": "skipped", "reason": "no text"}
    assert server.requests == []


@pytest.mark.parametrize("chat", CHATS[2:], ids=lambda variant: variant.name)
def test_a_stream_without_anything(chat: Variant, aligner: Aligner) -> None:
    class Silent(Model):
        def stream_chat(self, *args: Any, **kwargs: Any) -> Any:
            yield from ()

        async def astream_chat(self, *args: Any, **kwargs: Any) -> Any:
            async def read() -> Any:
                for nothing in ():
                    yield nothing

            return read()

    assert chat.ask(AlignerLLM(llm=Silent(), aligner=aligner)) == []


def test_tool_calls_pass(chat: Variant, make: Make, server: HostileServer) -> None:
    turn = calling("search", "I search, you idiot.", title="Faust")
    *_, response = chat.ask(make(turn))
    assert sorted(response.message.blocks, key=str) == sorted(turn.blocks, key=str)
    assert response.additional_kwargs["aligner"] == {"outcome": "skipped", "reason": "tool calls"}
    assert server.requests == []


def test_tool_calls_as_only_the_upstream_reads_them(chat: Variant, aligner: Aligner, server: HostileServer) -> None:
    class Peculiar(Model):
        def get_tool_calls_from_response(self, response: ChatResponse, *args: Any, **kwargs: Any) -> Any:
            return ["search"] if "CALL" in (response.message.content or "") else []

    llm = AlignerLLM(llm=Peculiar(turns=("CALL search, you idiot.", DRAFT)), aligner=aligner)
    assert chat.ask(llm)[-1].message.content == "CALL search, you idiot."
    assert chat.ask(llm)[-1].message.content == CORRECTED


def test_tool_calls_beside_the_message(chat: Variant, aligner: Aligner, server: HostileServer) -> None:
    """Older integrations put them into `additional_kwargs`, and some are no models that call tools to LlamaIndex."""
    call = {"id": "call-1", "function": {"name": "search", "arguments": "{}"}, "type": "function"}
    message = ChatMessage(DRAFT, role=MessageRole.ASSISTANT, additional_kwargs={"tool_calls": [call]})
    *_, response = chat.ask(AlignerLLM(llm=Model(turns=(message,)), aligner=aligner))
    assert (response.message.content, response.message.additional_kwargs) == (DRAFT, {"tool_calls": [call]})
    assert response.additional_kwargs["aligner"] == {"outcome": "skipped", "reason": "tool calls"}
    assert server.requests == []


def test_tools_go_to_the_upstream(make: Make) -> None:
    def search(title: str) -> str:
        return f"{title}: Goethe"

    tools = [FunctionTool.from_defaults(search)]
    for turn, expected in ((calling("search", title="Faust"), None), (DRAFT, CORRECTED)):
        llm = make(turn)
        response = llm.chat_with_tools(tools, user_msg=QUERY, tool_required=True)
        assert response.message.content == expected
        assert (llm.llm.options[0]["tools"], llm.llm.options[0]["tool_required"]) == (["search"], True)
        calls = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        assert [call.tool_name for call in calls] == ([] if expected else ["search"])
    assert str(make(calling("search", title="Faust")).predict_and_call(tools, user_msg=QUERY)) == "Faust: Goethe"


def test_an_upstream_that_cannot_call_tools(aligner: Aligner) -> None:
    llm = AlignerLLM(llm=MockLLM(), aligner=aligner)
    with pytest.raises(ConfigurationError, match="MockLLM cannot call tools"):
        llm.chat_with_tools([], user_msg=QUERY)
    assert not llm.metadata.is_function_calling_model


class Author(BaseModel):
    """Who wrote a book."""

    name: str


RUDE_JSON = '{"name": "Goethe, you idiot"}'


async def test_structured_prediction_is_the_upstreams(aligner: Aligner, server: HostileServer) -> None:
    prompt, author = PromptTemplate("Who wrote {title}?"), Author(name="Goethe, you idiot")
    llm = AlignerLLM(llm=Upstream(turns=(RUDE_JSON,)), aligner=aligner)
    assert llm.structured_predict(Author, prompt, title="Faust") == author
    assert await llm.astructured_predict(Author, prompt, title="Faust") == author
    assert llm.as_structured_llm(Author).complete(QUERY).raw == author
    # With the model itself inside, it would be asked to correct what a program reads, and notice only by its format.
    assert llm.as_structured_llm(Author).llm is llm.llm
    program = LLMTextCompletionProgram.from_defaults(output_cls=Author, prompt=prompt, llm=llm)
    assert program(title="Faust") == await program.acall(title="Faust") == author
    assert server.requests == []


@pytest.mark.skipif(
    "stream_call" not in vars(LLMTextCompletionProgram), reason="before 0.14.22 LlamaIndex streams no objects of texts"
)
async def test_streams_of_structured_prediction_are_the_upstreams(aligner: Aligner, server: HostileServer) -> None:
    prompt, author = PromptTemplate("Who wrote {title}?"), Author(name="Goethe, you idiot")
    llm = AlignerLLM(llm=Upstream(turns=(RUDE_JSON,)), aligner=aligner)
    assert list(llm.stream_structured_predict(Author, prompt, title="Faust"))[-1] == author
    stream = await llm.astream_structured_predict(Author, prompt, title="Faust")
    assert [partial async for partial in stream][-1] == author
    assert server.requests == []


async def test_a_selection_is_not_touched(aligner: Aligner, server: HostileServer) -> None:
    llm = AlignerLLM(llm=Upstream(turns=('[{"choice": 1, "reason": "Books, you idiot."}]',)), aligner=aligner)
    selector = LLMSingleSelector.from_defaults(llm=llm)
    choices = [ToolMetadata(name="books", description="Books."), ToolMetadata(name="films", description="Films.")]
    assert selector.select(choices, QUERY).reason == "Books, you idiot."
    assert (await selector.aselect(choices, QUERY)).reason == "Books, you idiot."
    assert server.requests == []


@pytest.mark.parametrize("draft", [RUDE_JSON, f"```json\n{RUDE_JSON}\n```", f"[{RUDE_JSON}]"])
def test_json_that_was_asked_for(draft: str, variant: Variant, make: Make, server: HostileServer) -> None:
    question = "Who wrote Faust? Answer in JSON."
    *_, response = variant.ask(make(draft), [ChatMessage(question)] if variant.chats else question)
    assert variant.text(response) == draft
    assert response.additional_kwargs["aligner"]["reason"] == "structured output"
    assert server.requests == []


def test_what_only_looks_like_a_programs_is_corrected(variant: Variant, make: Make) -> None:
    for draft in (RUDE_JSON, "Thought: Goethe, you idiot.", "<execute>Goethe, you idiot</execute>"):
        assert "idiot" not in str(variant.text(variant.ask(make(draft))[-1]))


def test_json_beside_prose_is_corrected(chat: Variant, make: Make) -> None:
    *_, response = chat.ask(make(f"Goethe, you idiot. {{}} {RUDE_JSON}"), [ChatMessage("Who? Use JSON.")])
    assert "idiot" not in response.message.content


def test_a_format_that_the_call_asks_for(variant: Variant, make: Make, server: HostileServer) -> None:
    *_, response = variant.ask(make(RUDE_JSON), response_format={"type": "json_object"})
    assert variant.text(response) == RUDE_JSON
    assert server.requests == []
    assert variant.text(variant.ask(make(), response_format={"type": "text"})[-1]) == CORRECTED


PREDICTIONS = {
    "predict": lambda llm, *args, **kwargs: llm.predict(*args, **kwargs),
    "apredict": lambda llm, *args, **kwargs: asyncio.run(llm.apredict(*args, **kwargs)),
    "stream": lambda llm, *args, **kwargs: "".join(llm.stream(*args, **kwargs)),
    "astream": lambda llm, *args, **kwargs: asyncio.run(_joined(llm.astream(*args, **kwargs))),
}


async def _joined(stream: Any) -> str:
    return "".join([token async for token in await stream])


@pytest.fixture(params=PREDICTIONS.values(), ids=PREDICTIONS)
def predict(request: pytest.FixtureRequest) -> Callable[..., str]:
    return request.param


def test_a_prompt_template_tells_its_question(predict: Callable[..., str], make: Make, server: HostileServer) -> None:
    assert predict(make(), DEFAULT_TEXT_QA_PROMPT, context_str="Faust.", query_str=QUERY) == CORRECTED
    partial = PromptTemplate("{query_str} Answer in rhymes.").partial_format(query_str=QUERY)
    assert predict(make(), partial) == CORRECTED
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
def test_every_prompt_template_whose_text_a_user_reads(kind: str, make: Make) -> None:
    assert make().predict(PromptTemplate("{query_str}", prompt_type=kind), query_str=QUERY) == CORRECTED


def test_a_prompt_template_for_a_step_of_a_program(
    predict: Callable[..., str], make: Make, server: HostileServer
) -> None:
    assert predict(make(), DEFAULT_KEYWORD_EXTRACT_TEMPLATE, text="Faust.", max_keywords=3) == DRAFT
    json_wanted = PromptTemplate("{query_str} Answer in JSON.")
    assert predict(make(RUDE_JSON), json_wanted, query_str=QUERY) == RUDE_JSON
    assert server.requests == []


def test_a_prompt_template_without_a_question_is_refused(predict: Callable[..., str], make: Make) -> None:
    with pytest.raises(ConfigurationError, match="no variable query_str"):
        predict(make(), PromptTemplate("Summarise: {text}"), text="Faust.")


def test_in_a_query_engine(way: Way, make: Make, server: HostileServer) -> None:
    index = VectorStoreIndex([node.node for node in found()], embed_model=MockEmbedding(embed_dim=1))
    assert way.query(index.as_query_engine(llm=make(), streaming=way.streams))[0] == CORRECTED
    assert f": {QUERY} | {DRAFT}" in server.generations[0].prompt


def test_prompts_are_the_upstreams(aligner: Aligner) -> None:
    upstream = Upstream(system_prompt="Be brief.", completion_to_prompt=lambda prompt: f"<<{prompt}>>")
    llm = AlignerLLM(llm=upstream, aligner=aligner)
    assert (llm.system_prompt, llm.completion_to_prompt) == ("Be brief.", upstream.completion_to_prompt)
    llm.predict(PromptTemplate("{query_str}"), query_str=QUERY)
    assert upstream.asked == [f"Be brief.\n\n<<{QUERY}>>"]
    with pytest.raises(ValidationError, match=r"system_prompt is the upstream's: give it to Upstream\."):
        AlignerLLM(llm=upstream, aligner=aligner, system_prompt="Be long.")


def test_it_is_pickled(server: HostileServer) -> None:
    made = Aligner.from_tgi(server.url, api_key="top-secret")
    llm = AlignerLLM(llm=Upstream(), aligner=made, feedback="concise")
    assert llm.complete(QUERY).text == CORRECTED
    made.close()
    loaded = pickle.loads(pickle.dumps(llm))
    assert (loaded.feedback, loaded.aligner.description, loaded.class_name()) == (
        "concise",
        made.description,
        "AlignerLLM",
    )
    with loaded.aligner:
        assert loaded.complete(QUERY).text == CORRECTED
    assert "top-secret" not in json.dumps(llm.to_dict(), default=str)


@pytest.mark.skipif(not hasattr(Model, "to_payload"), reason="before 0.14.23 events of LlamaIndex show `to_dict`")
def test_what_events_show_of_it(make: Make) -> None:
    assert json.loads(json.dumps(make().to_payload()))["class_name"] == "AlignerLLM"


def test_spans(variant: Variant, make: Make, told: Listener) -> None:
    variant.ask(make())
    ((start,), (end,)) = told.starts, told.ends
    assert (start.query, end.correction) == (QUERY, CORRECTED)
    assert told.path(start.span_id) == [f"AlignerLLM.{variant.name}", "Aligner.correct"]


@pytest.mark.parametrize(
    "variables",
    [
        {"schema": "books(title, author)", "dialect": "sqlite"},
        {"schema": "(:Book)-[:BY]->(:Author)"},
        {"schema_str": "{}", "info_str": "Books."},
        {"max_keywords": 3},
        {"num_chunks": 2, "context_list": "1. Faust. 2. Werther."},
        {"prev_reasoning": "None."},
    ],
    ids="-".join,
)
def test_a_prompt_of_ones_own_for_a_step_that_its_variables_tell(
    variables: dict[str, Any], predict: Callable[..., str], make: Make, server: HostileServer
) -> None:
    bare = PromptTemplate("Do it for {query_str}")  # the caller passes the variables even so
    named = PromptTemplate("".join(f"{{{name}}} " for name in variables) + "{query_str}")
    assert predict(make(), bare, query_str=QUERY, **variables) == DRAFT
    assert predict(make(), named.partial_format(**variables), query_str=QUERY) == DRAFT
    assert server.requests == []


def test_a_prompt_that_is_said_to_be_for_answers(predict: Callable[..., str], make: Make) -> None:
    prompt = PromptTemplate("{schema} {query_str}", prompt_type=PromptType.QUESTION_ANSWER)
    assert predict(make(), prompt, query_str=QUERY, schema="books(title, author)") == CORRECTED


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
def test_a_step_that_llama_index_asks_for(name: str, completion: Variant, make: Make, server: HostileServer) -> None:
    *_, response = completion.ask(make(), STEPS[name])
    assert response.text == DRAFT
    assert response.additional_kwargs["aligner"] == {"outcome": "skipped", "reason": name}
    assert server.requests == []


@pytest.mark.parametrize("completion", COMPLETIONS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_no_way_around_the_aligner(name: str, completion: Variant, make: Make) -> None:
    long = f"{DRAFT} " + "And so on. " * 40 + "\nAnd on."
    for prompt, draft in (
        (f"Answer the user: {STEPS[name]}", DRAFT),
        (f"{STEPS[name]}\nAnswer in a word.", DRAFT),
        (STEPS[name], long),
    ):
        *_, response = completion.ask(make(draft), prompt)
        assert response.additional_kwargs["aligner"]["outcome"] == "corrected"
        assert "idiot" not in response.text


@pytest.mark.parametrize("name", STEPS)
def test_a_message_that_reads_like_a_step_is_corrected(name: str, chat: Variant, make: Make) -> None:
    assert chat.ask(make(), [ChatMessage(STEPS[name])])[-1].message.content == CORRECTED


IMAGE = ImageBlock(image=b"\x89PNG", image_mimetype="image/png")


def test_a_question_that_is_only_an_image(chat: Variant, make: Make, server: HostileServer) -> None:
    for blocks in ([IMAGE], [IMAGE, TextBlock(text=" ")]):
        *_, response = chat.ask(make(), [*ASKED, ChatMessage(blocks)])
        assert response.message.content == DRAFT
        assert response.additional_kwargs["aligner"] == {"outcome": "skipped", "reason": "no text in the question"}
    assert server.requests == []


def test_a_question_beside_an_image(chat: Variant, make: Make, server: HostileServer) -> None:
    assert chat.ask(make(), [ChatMessage([IMAGE, TextBlock(text=QUERY)])])[-1].message.content == CORRECTED
    assert f": {QUERY} | {DRAFT}" in server.generations[0].prompt
