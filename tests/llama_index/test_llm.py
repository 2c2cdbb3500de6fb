"""`AlignerLLM`: answers are corrected in all eight ways to ask; what programs read is not touched."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hostile import HostileServer, refuse, speak
from listening import Listener
from llama_index.core import MockEmbedding, PromptTemplate, VectorStoreIndex
from llama_index.core.base.llms.types import (
    CacheControl,
    CachePoint,
    ChatMessage,
    ChatResponse,
    ImageBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
)
from llama_index.core.llms import MockLLM
from llama_index.core.program import LLMTextCompletionProgram
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import FunctionTool, ToolMetadata
from models import Model, calling
from pydantic import BaseModel, ValidationError
from rag import CORRECTED, DRAFT, QUERY, TOLD, Upstream, Way, found
from variants import ASKED, CHATS, STREAMS, MakeLLM, Variant

from aligner_chains import Aligner
from aligner_chains.errors import ConfigurationError, GenerationError, InvalidInputError, StreamInterruptedError
from llama_index_aligner import AlignerLLM


def test_an_answer(variant: Variant, make_llm: MakeLLM, server: HostileServer) -> None:
    llm = make_llm()
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
def test_a_stream(variant: Variant, make_llm: MakeLLM) -> None:
    responses = variant.ask(make_llm())
    assert [response.delta for response in responses] == ["Goethe", " wrote", " Faust.", ""]
    assert [variant.text(response) for response in responses] == ["Goethe", "Goethe wrote", CORRECTED, CORRECTED]


def test_no_response_shows_the_draft(variant: Variant, make_llm: MakeLLM, told: Listener) -> None:
    llm = make_llm()
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


def test_blocks_that_are_not_text_stay_in_place(chat: Variant, make_llm: MakeLLM) -> None:
    blocks = [ThinkingBlock(content="Hm."), TextBlock(text="Goethe wrote"), TextBlock(text="Faust, you idiot.")]
    llm = make_llm(ChatMessage(blocks[:2], role=MessageRole.ASSISTANT), ChatMessage(blocks, role=MessageRole.ASSISTANT))
    *_, response = chat.ask(llm)
    assert response.message.blocks == blocks[:2]
    if "stream" not in chat.name:
        assert chat.ask(llm)[0].message.blocks == [blocks[0], TextBlock(text="Goethe wrote\nFaust.")]


def test_the_question_is_what_the_user_said_last(chat: Variant, make_llm: MakeLLM, server: HostileServer) -> None:
    history = [ChatMessage("Hi."), ChatMessage("Hello.", role=MessageRole.ASSISTANT), *ASKED]
    chat.ask(make_llm(), [*history, ChatMessage("Found.", role=MessageRole.TOOL)])
    assert f": {QUERY} | {DRAFT}" in server.generations[0].prompt


def test_without_a_question(chat: Variant, make_llm: MakeLLM) -> None:
    for asked in (ASKED[:1], [ChatMessage([TextBlock(text=" "), CachePoint(cache_control=CacheControl(type="x"))])]):
        with pytest.raises(InvalidInputError, match="The query is"):
            chat.ask(make_llm(), asked)


def test_a_failure_raises_by_default(
    variant: Variant, make_llm: MakeLLM, hostile: Callable[..., HostileServer]
) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"), speak(" Goethe", end="error"))
    with Aligner.from_tgi(server.url) as aligner:
        with pytest.raises(GenerationError, match="on fire"):
            variant.ask(make_llm(aligner=aligner))
        with pytest.raises(StreamInterruptedError if variant in STREAMS else GenerationError, match="on fire"):
            variant.ask(make_llm(aligner=aligner))


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


def test_tool_calls_pass(chat: Variant, make_llm: MakeLLM, server: HostileServer) -> None:
    turn = calling("search", "I search, you idiot.", title="Faust")
    *_, response = chat.ask(make_llm(turn))
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


class Unable(Model):
    """A model that LlamaIndex knows no way to read tool calls from, as older integrations are."""

    def get_tool_calls_from_response(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


BESIDE = {"tool_calls": [{"id": "call-1", "function": {"name": "search", "arguments": "{}"}, "type": "function"}]}


@pytest.mark.parametrize(
    "turn",
    [
        ChatMessage(DRAFT, role=MessageRole.ASSISTANT, additional_kwargs=BESIDE),
        calling("search", "I search, you idiot.", title="Faust"),
    ],
    ids=["beside the message", "in the message"],
)
def test_tool_calls_that_the_upstream_cannot_read(
    turn: ChatMessage, chat: Variant, aligner: Aligner, server: HostileServer
) -> None:
    llm = AlignerLLM(llm=Unable(turns=(turn, DRAFT)), aligner=aligner)
    *_, response = chat.ask(llm)
    assert (response.message.content, response.message.additional_kwargs) == (turn.content, turn.additional_kwargs)
    assert response.additional_kwargs["aligner"] == {"outcome": "skipped", "reason": "tool calls"}
    assert server.requests == []
    assert chat.ask(llm)[-1].message.content == CORRECTED


def test_tools_go_to_the_upstream(make_llm: MakeLLM) -> None:
    def search(title: str) -> str:
        return f"{title}: Goethe"

    tools = [FunctionTool.from_defaults(search)]
    for turn, expected in ((calling("search", title="Faust"), None), (DRAFT, CORRECTED)):
        llm = make_llm(turn)
        response = llm.chat_with_tools(tools, user_msg=QUERY, tool_required=True)
        assert response.message.content == expected
        assert (llm.llm.options[0]["tools"], llm.llm.options[0]["tool_required"]) == (["search"], True)
        calls = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        assert [call.tool_name for call in calls] == ([] if expected else ["search"])
    assert str(make_llm(calling("search", title="Faust")).predict_and_call(tools, user_msg=QUERY)) == "Faust: Goethe"


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


@pytest.mark.parametrize("draft", [RUDE_JSON, f"```JSON\n{RUDE_JSON}\n```", f"```\n{RUDE_JSON}\n```", f"[{RUDE_JSON}]"])
def test_json_that_was_asked_for(draft: str, variant: Variant, make_llm: MakeLLM, server: HostileServer) -> None:
    question = "Who wrote Faust? Answer in JSON."
    *_, response = variant.ask(make_llm(draft), [ChatMessage(question)] if variant.chats else question)
    assert variant.text(response) == draft
    assert response.additional_kwargs["aligner"]["reason"] == "structured output"
    assert server.requests == []


@pytest.mark.parametrize(
    ("sign", "draft", "reason"),
    [
        ("Action Input:", "Thought: Goethe, you idiot.", "reasoning step"),
        ("<execute>", "<execute>print('Goethe, you idiot')</execute>", "code to execute"),
    ],
)
def test_text_of_a_program_that_was_asked_for(
    sign: str, draft: str, reason: str, variant: Variant, make_llm: MakeLLM
) -> None:
    asked = [ChatMessage(f"{QUERY} {sign}")] if variant.chats else f"{QUERY} {sign}"
    *_, response = variant.ask(make_llm(draft), asked)
    assert (variant.text(response), response.additional_kwargs["aligner"]["reason"]) == (draft, reason)
    assert variant.text(variant.ask(make_llm(), asked)[-1]) == CORRECTED


def test_what_only_looks_like_a_programs_is_corrected(variant: Variant, make_llm: MakeLLM) -> None:
    for draft in (RUDE_JSON, "Thought: Goethe, you idiot.", "<execute>Goethe, you idiot</execute>"):
        assert "idiot" not in str(variant.text(variant.ask(make_llm(draft))[-1]))


def test_json_beside_prose_is_corrected(chat: Variant, make_llm: MakeLLM) -> None:
    *_, response = chat.ask(make_llm(f"Goethe, you idiot. {{}} {RUDE_JSON}"), [ChatMessage("Who? Use JSON.")])
    assert "idiot" not in response.message.content


def test_a_format_that_the_call_asks_for(variant: Variant, make_llm: MakeLLM, server: HostileServer) -> None:
    *_, response = variant.ask(make_llm(RUDE_JSON), response_format={"type": "json_object"})
    assert variant.text(response) == RUDE_JSON
    assert server.requests == []
    assert variant.text(variant.ask(make_llm(), response_format={"type": "text"})[-1]) == CORRECTED


def test_in_a_query_engine(way: Way, make_llm: MakeLLM, server: HostileServer) -> None:
    index = VectorStoreIndex([node.node for node in found()], embed_model=MockEmbedding(embed_dim=1))
    assert way.query(index.as_query_engine(llm=make_llm(), streaming=way.streams))[0] == CORRECTED
    assert f": {QUERY} | {DRAFT}" in server.generations[0].prompt


def test_prompts_are_the_upstreams(aligner: Aligner) -> None:
    upstream = Upstream(system_prompt="Be brief.", completion_to_prompt=lambda prompt: f"<<{prompt}>>")
    upstream.query_wrapper_prompt = PromptTemplate("{query_str}")
    llm = AlignerLLM(llm=upstream, aligner=aligner)
    assert llm.query_wrapper_prompt is upstream.query_wrapper_prompt
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
def test_what_events_show_of_it(make_llm: MakeLLM) -> None:
    assert json.loads(json.dumps(make_llm().to_payload()))["class_name"] == "AlignerLLM"


def test_spans(variant: Variant, make_llm: MakeLLM, told: Listener) -> None:
    variant.ask(make_llm())
    ((start,), (end,)) = told.starts, told.ends
    assert (start.query, end.correction) == (QUERY, CORRECTED)
    assert told.path(start.span_id) == [f"AlignerLLM.{variant.name}", "Aligner.correct"]


IMAGE = ImageBlock(image=b"\x89PNG", image_mimetype="image/png")


def test_a_question_that_is_only_an_image(chat: Variant, make_llm: MakeLLM, server: HostileServer) -> None:
    for blocks in ([IMAGE], [IMAGE, TextBlock(text=" ")]):
        *_, response = chat.ask(make_llm(), [*ASKED, ChatMessage(blocks)])
        assert response.message.content == DRAFT
        assert response.additional_kwargs["aligner"] == {"outcome": "skipped", "reason": "no text in the question"}
    assert server.requests == []


def test_a_question_beside_an_image(chat: Variant, make_llm: MakeLLM, server: HostileServer) -> None:
    assert chat.ask(make_llm(), [ChatMessage([IMAGE, TextBlock(text=QUERY)])])[-1].message.content == CORRECTED
    assert f": {QUERY} | {DRAFT}" in server.generations[0].prompt
