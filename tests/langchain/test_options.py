"""What may be said for all drafts and for each, and the ways that LangChain has to say it."""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hostile import HostileServer, hang, refuse, speak
from langchain_core.load import dumps, loads
from langchain_core.runnables import ConfigurableField, RunnablePassthrough
from pydantic import ValidationError
from upstream import CORRECTED, DRAFT, Upstream
from ways import WAYS, Run

from aligner_chains import REFUSAL, Aligner, Feedback, Guard
from aligner_chains.backends.local import LocalBackend
from aligner_chains.errors import (
    ConfigurationError,
    CorrectionTimeoutError,
    GenerationError,
    InvalidTypeError,
    TruncatedCorrectionError,
)
from langchain_aligner import AlignerRunnable

PAIR = {"query": "Who wrote Faust?", "draft": DRAFT}
KIND = {"configurable": {"feedback": "empathetic"}}


def objectives(server: HostileServer) -> list[str]:
    """What the server was asked to make drafts more of."""
    found = [re.search(r"make it more (.*?): ", request.prompt) for request in server.generations]
    return [match[1] for match in found if match]


def with_a_field_of_the_same_name(runnable: AlignerRunnable) -> Any:
    return runnable.configurable_fields(feedback=ConfigurableField(id="feedback"))


@pytest.mark.parametrize(
    "runnable",
    [
        lambda a: AlignerRunnable(aligner=a, feedback=Feedback.EMPATHETIC),
        lambda a: AlignerRunnable(aligner=a, feedback="concise").with_config(KIND),
        lambda a: AlignerRunnable(aligner=a).with_config(configurable={"feedback": "x"}).bind(feedback="empathetic"),
        lambda a: with_a_field_of_the_same_name(AlignerRunnable(aligner=a)).with_config(KIND),
    ],
)
def test_feedback_as_a_value_and_what_wins(
    runnable: Callable[[Aligner], Any], run: Run, aligner: Aligner, server: HostileServer
) -> None:
    run(runnable(aligner), PAIR)
    assert objectives(server) == ["empathetic"]


def test_feedback_for_one_call_of_a_chain(run: Run, aligner: Aligner, server: HostileServer) -> None:
    chain = Upstream() | AlignerRunnable(aligner=aligner)
    run(chain, "Who wrote Faust?", config=KIND)
    run(chain, "Who wrote Faust?")
    assert objectives(server) == ["empathetic", "helpful and harmless"]


SAID: dict[str, Callable[..., Any]] = {
    "constructor": lambda run, a, **options: run(AlignerRunnable(aligner=a, **options), PAIR),
    "bind": lambda run, a, **options: run(AlignerRunnable(aligner=a).bind(**options), PAIR),
    "with_config": lambda run, a, **options: run(AlignerRunnable(aligner=a).with_config(configurable=options), PAIR),
    "config": lambda run, a, **options: run(AlignerRunnable(aligner=a), PAIR, config={"configurable": options}),
}


@pytest.fixture(params=SAID.values(), ids=SAID)
def say(request: pytest.FixtureRequest, run: Run) -> Callable[..., Any]:
    """Corrects the pair with the options that are given, said in every way, and run in every way."""
    return partial(request.param, run)


def test_feedback(say: Callable[..., Any], aligner: Aligner, server: HostileServer) -> None:
    assert say(aligner, feedback="empathetic") == CORRECTED
    assert objectives(server) == ["empathetic"]


@pytest.mark.parametrize(("policy", "text"), [("draft", DRAFT), ("refuse", REFUSAL)])
def test_on_failure(policy: Any, text: str, say: Callable[..., Any], hostile: Callable[..., HostileServer]) -> None:
    with Aligner.from_tgi(hostile(refuse(424, "generation", "the GPU is on fire")).url) as aligner:
        assert say(aligner, on_failure=policy) == text


def test_timeout(say: Callable[..., Any], hostile: Callable[..., HostileServer]) -> None:
    with Aligner.from_tgi(hostile(hang).url) as aligner, pytest.raises(CorrectionTimeoutError):
        say(aligner, timeout=0.05)


def test_max_new_tokens(say: Callable[..., Any], aligner: Aligner, server: HostileServer) -> None:
    assert say(aligner, max_new_tokens=7) == CORRECTED
    assert [request.body["parameters"]["max_new_tokens"] for request in server.generations] == [7]


def test_a_failure_raises_by_default(run: Run, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner, pytest.raises(GenerationError, match="on fire"):
        run(AlignerRunnable(aligner=aligner), PAIR)


def test_the_aligners_own_policy_counts_where_nothing_else_is_said(run: Run, hostile: Callable[..., Any]) -> None:
    server = hostile(refuse(424, "generation"))
    with Aligner.from_tgi(server.url, on_failure="draft") as aligner:
        assert run(AlignerRunnable(aligner=aligner), PAIR) == DRAFT


def test_an_option_that_does_not_exist(run: Run, aligner: Aligner) -> None:
    with pytest.raises(InvalidTypeError, match=r"no option \['feedbak'\]"):
        run(AlignerRunnable(aligner=aligner).bind(feedbak="empathetic"), PAIR)
    with pytest.raises(ValidationError, match="feedbak"):
        AlignerRunnable(feedbak="empathetic")
    with pytest.raises(TypeError):
        AlignerRunnable(aligner)


def test_a_value_that_is_none(run: Run, aligner: Aligner) -> None:
    with pytest.raises(ConfigurationError, match="'explode'"):
        run(AlignerRunnable(aligner=aligner).bind(on_failure="explode"), PAIR)
    with pytest.raises(ValidationError, match="on_failure"):
        AlignerRunnable(on_failure="explode")


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "batch", "abatch"])  # LangChain does not retry streams
def test_with_retry(way: str, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(speak(finish_reason="length"))
    with Aligner.from_tgi(server.url) as aligner:
        runnable = AlignerRunnable(aligner=aligner).with_retry(
            retry_if_exception_type=(TruncatedCorrectionError,), wait_exponential_jitter=False
        )
        assert WAYS[way](runnable, PAIR) == CORRECTED
    assert len(server.generations) == 2


def test_with_fallbacks(run: Run, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(refuse(424, "generation"))
    with Aligner.from_tgi(server.url) as aligner:
        chain = AlignerRunnable(aligner=aligner).with_fallbacks([RunnablePassthrough() | (lambda pair: pair["query"])])
        assert run(chain, PAIR) == PAIR["query"]


def test_configurable_alternatives(run: Run, aligner: Aligner, server: HostileServer) -> None:
    runnable = AlignerRunnable(aligner=aligner).configurable_alternatives(
        ConfigurableField(id="aligner"), none=RunnablePassthrough() | (lambda pair: pair["draft"])
    )
    assert run(runnable, PAIR) == CORRECTED
    assert run(runnable, PAIR, config={"configurable": {"aligner": "none"}}) == DRAFT


@pytest.mark.filterwarnings("ignore:This API is in beta")
def test_as_tool(aligner: Aligner) -> None:
    tool = AlignerRunnable(aligner=aligner).as_tool(name="polish")
    assert (tool.name, set(tool.args), tool.invoke(PAIR)) == ("polish", {"query", "draft"}, CORRECTED)
    assert asyncio.run(tool.ainvoke(PAIR)) == CORRECTED


def test_schemas_and_graph(aligner: Aligner) -> None:
    chain = Upstream() | AlignerRunnable(aligner=aligner)
    kinds = AlignerRunnable().get_input_jsonschema()["anyOf"]
    assert {kind.get("type") for kind in kinds} >= {"string", "array", "object"}
    assert AlignerRunnable().get_output_jsonschema()["title"] == "AlignerRunnableOutput"
    assert "Upstream --> AlignerRunnable;" in chain.get_graph().draw_mermaid()
    assert set(chain.get_config_jsonschema()["$defs"]["Configurable"]["properties"]) == {
        "feedback",
        "on_failure",
        "timeout",
        "max_new_tokens",
    }


def saved_and_loaded(runnable: Any, **options: Any) -> tuple[str, Any]:
    saved = dumps(runnable)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loading is in beta
        return saved, loads(saved, allowed_objects=[type(runnable)], valid_namespaces=["langchain_aligner"], **options)


def test_saved_without_its_key(server: HostileServer) -> None:
    made = Aligner.from_tgi(server.url, api_key="top-secret", feedback="concise", guard=Guard(min_confidence=0.5))
    runnable = AlignerRunnable(aligner=made, feedback=Feedback("kind", instruction="Smile."), keep_draft=True)
    saved, loaded = saved_and_loaded(runnable, secrets_map={"ALIGNER_API_KEY": "top-secret"})
    assert "top-secret" not in saved
    assert "ALIGNER_API_KEY" in saved
    assert repr(loaded) == repr(runnable)
    assert loaded.aligner.description == made.description
    with loaded.aligner:
        assert loaded.bind(feedback="concise").invoke(PAIR) == CORRECTED
    assert {request.headers["authorization"] for request in server.generations} == {"Bearer top-secret"}
    assert saved_and_loaded(runnable)[1].aligner.description == made.description  # even if there is no key


@pytest.mark.parametrize(
    "made",
    [
        lambda: Aligner.from_openai("http://127.0.0.1:1/v1", model="aligner-7b", prompt_format="instruct"),
        lambda: Aligner(timeout=7),
        lambda: None,
    ],
    ids=["openai", "environment", "default"],
)
def test_every_kind_of_aligner_is_saved(made: Callable[[], Aligner | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNER_URL", "http://127.0.0.1:1")
    runnable = AlignerRunnable(aligner=made())
    assert repr(saved_and_loaded(runnable)[1]) == repr(runnable)


def test_the_embedded_aligner_is_saved_by_its_name() -> None:
    saved = AlignerRunnable(aligner=Aligner.embedded(on_failure="draft")).lc_attributes["aligner"]
    assert saved == {"made_by": "embedded", "on_failure": "draft"}


def test_an_aligner_with_a_backend_of_ones_own_is_not(embedded_backend: LocalBackend) -> None:
    with pytest.raises(NotImplementedError, match="Aligner"):
        saved_and_loaded(AlignerRunnable(aligner=Aligner(embedded_backend)))


def test_without_an_aligner_it_is_the_one_in_the_environment(
    run: Run, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNER_URL", server.url)
    monkeypatch.setenv("ALIGNER_FEEDBACK", "empathetic")
    assert run(AlignerRunnable(), PAIR) == CORRECTED
    assert objectives(server) == ["empathetic"]
