"""`AlignedChatModel` in LangChain's standard tests for chat models (`langchain-tests`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hostile import HostileServer
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd, dumps, load, loads
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import model_validator
from upstream import CORRECTED, DRAFT, Upstream

from aligner_chains import Aligner
from langchain_aligner import AlignedChatModel


class Standard(Upstream):
    """An upstream that does all that the standard tests ask of a model: tools, structure, usage, stop, other models."""

    temperature: float | None = None
    max_tokens: int | None = None
    timeout: float | None = None
    stop: list[str] | None = None
    max_retries: int | None = None
    streaming: bool = False

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[Any, AIMessage]:
        functions = [convert_to_openai_tool(tool)["function"] for tool in tools]
        return self.bind(functions=functions, tool_choice=tool_choice, **kwargs)

    def _turn(self, messages: list[BaseMessage], **kwargs: Any) -> AIMessage:
        functions, last = kwargs.get("functions"), messages[-1]
        calls = []
        if functions and not isinstance(last, ToolMessage):
            chosen = [function for function in functions if function["name"] == kwargs.get("tool_choice")]
            function = (chosen or functions)[0]
            names = function["parameters"].get("required", [])
            values = {name: value(function["parameters"]["properties"][name], str(last.text)) for name in names}
            calls = [{"name": function["name"], "args": values, "id": "call_1", "type": "tool_call"}]
        return AIMessage(
            "" if calls else DRAFT,
            tool_calls=calls,
            usage_metadata={"input_tokens": 3, "output_tokens": 9, "total_tokens": 12},
            response_metadata={"model_name": kwargs.get("model", self.model), "model_provider": "upstream"},
        )


def value(schema: dict[str, Any], question: str) -> Any:
    """What a model would take out of the question for a parameter."""
    if schema.get("type") == "integer":
        return int((re.findall(r"\d+", question) or [7])[0])
    quoted = re.findall(r"'(.*?)'", question)
    return quoted[0] if quoted else question


class AlignedStandard(AlignedChatModel):
    """The standard parameters of a chat model are its upstream's, so they go there."""

    @model_validator(mode="before")
    @classmethod
    def _standard_parameters(cls, values: dict[str, Any]) -> dict[str, Any]:
        if "llm" in values:
            return values
        own = {name: values[name] for name in ("aligner", "aligner_api_key") if name in values}
        return {"llm": Standard(**{name: values[name] for name in values if name not in own}), **own}


class _Setting:
    @pytest.fixture(autouse=True)
    def _server(self, hostile: Callable[..., HostileServer]) -> Iterator[None]:
        with Aligner.from_tgi(hostile().url, api_key="top-secret") as self.aligner:
            yield

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return AlignedStandard

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"aligner": self.aligner, "model": "upstream-1"}


class TestUnit(_Setting, ChatModelUnitTests):
    """`test_serdes` cannot pass outside of LangChain's own packages: it allows only classes that LangChain lists.

    `test_saved_without_its_key` below shows what it is about. `test_init_from_env` skips itself: nothing but the
    default Aligner comes from the environment, and only when it is first needed (`test_options.py`).
    """

    @pytest.mark.filterwarnings("ignore:.* is in beta")
    @pytest.mark.xfail(reason="it allows no class but those that LangChain lists", raises=ValueError)
    def test_serdes(self, model: BaseChatModel) -> None:
        load(dumpd(model), allowed_objects="all", valid_namespaces=["test_standard_suites"])


class TestIntegration(_Setting, ChatModelIntegrationTests):
    """What the tests of images, documents and sounds send comes from the network, so they skip themselves.

    `test_stream_time` skips itself: it measures against recorded answers of a provider. `test_json_mode` skips itself:
    JSON mode is the provider's affair, and `with_structured_output` hands it to the upstream as it is. So does
    `test_anthropic_inputs`: which formats of tools and results it reads is the upstream's affair too.
    """

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "upstream-2"


def test_the_suites_have_been_about_corrected_answers(hostile: Callable[..., HostileServer]) -> None:
    with Aligner.from_tgi(hostile().url) as aligner:
        answer = AlignedStandard(aligner=aligner).invoke([HumanMessage("Hello")])
    assert answer.response_metadata["aligner"]["outcome"] == "corrected"


@pytest.mark.filterwarnings("ignore:.* is in beta")
def test_saved_without_its_key(hostile: Callable[..., HostileServer]) -> None:
    with Aligner.from_tgi(hostile().url, api_key="top-secret") as aligner:
        model = AlignedStandard(aligner=aligner, model="upstream-1")
    saved = dumps(model)
    assert "top-secret" not in saved
    loaded = loads(
        saved,
        allowed_objects=[AlignedStandard, Standard],
        valid_namespaces=["test_standard_suites"],
        secrets_map={"ALIGNER_API_KEY": "top-secret"},
    )
    assert dumps(loaded) == saved
    with loaded.aligner:
        assert loaded.invoke("Hello").text == CORRECTED
