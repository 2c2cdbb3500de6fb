"""The correction seen from outside: a model call of its own, with its tokens and its failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hostile import Behaviour, HostileServer, refuse, speak
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tracers.context import collect_runs
from langchain_core.tracers.schemas import Run as TracedRun
from upstream import DRAFT, Upstream
from ways import Run

from aligner_chains import Aligner
from aligner_chains.errors import AlignerError
from langchain_aligner import AlignedChatModel, AlignerRunnable

QUESTION = "Who wrote Faust?"
MODEL = "aligner/aligner-7b-v1.0"


def tree(run: TracedRun) -> Any:
    """The names of a run and of those under it."""
    return {run.name: [tree(child) for child in run.child_runs]} if run.child_runs else run.name


def test_a_run_tree(run: Run, aligner: Aligner) -> None:
    with collect_runs() as collected:
        run(Upstream() | AlignerRunnable(aligner=aligner, feedback="empathetic"), QUESTION)
    (root,) = collected.traced_runs
    assert tree(root) == {"RunnableSequence": ["Upstream", {"AlignerRunnable": ["Aligner"]}]}
    correction = root.child_runs[1].child_runs[0]
    assert (correction.run_type, correction.error) == ("llm", None)
    assert correction.inputs == {"prompts": [f"Human: {QUESTION}\nAI: {DRAFT}"]}
    assert correction.extra["invocation_params"]["feedback"] == "empathetic"
    answer = correction.outputs["generations"][0][0]["message"]["kwargs"]
    assert answer["response_metadata"]["model_name"] == MODEL
    assert answer["usage_metadata"] == {"input_tokens": 11, "output_tokens": 4, "total_tokens": 15}


@pytest.mark.parametrize("behaviour", [speak(), refuse(424, "generation", "the GPU is on fire")], ids=["good", "bad"])
@pytest.mark.parametrize(
    "chain",
    [
        lambda aligner: Upstream() | AlignerRunnable(aligner=aligner),
        lambda aligner: AlignedChatModel(llm=Upstream(), aligner=aligner),
    ],
    ids=["runnable", "model"],
)
def test_a_run_names_the_model(
    chain: Callable[..., Any], behaviour: Behaviour, run: Run, hostile: Callable[..., HostileServer]
) -> None:
    server = hostile(for_ever=behaviour)
    with Aligner.from_tgi(server.url, on_failure="draft") as aligner, collect_runs() as collected:
        for _ in range(2):
            run(chain(aligner), QUESTION)
    first, second = (named(root, "Aligner").extra["metadata"] for root in collected.traced_runs)
    assert (first["ls_provider"], first["ls_model_type"]) == ("aligner-chains", "chat")
    # Which model the server has it says when it is asked for the first time.
    assert (first["ls_model_name"], second["ls_model_name"]) == (f"TgiBackend({server.url!r})", MODEL)


def named(run: TracedRun, name: str) -> TracedRun:
    """The run of this name under another one."""
    (found,) = (each for each in walk(run) if each.name == name)
    return found


def walk(run: TracedRun) -> Iterator[TracedRun]:
    yield run
    for child in run.child_runs:
        yield from walk(child)


def test_a_model_that_nobody_serves_has_the_servers_name(run: Run) -> None:
    with Aligner.from_tgi("http://127.0.0.1:9", on_failure="draft", timeout=1) as aligner, collect_runs() as collected:
        run(Upstream() | AlignerRunnable(aligner=aligner), QUESTION)
    correction = named(collected.traced_runs[0], "Aligner")
    assert correction.error.startswith("BackendConnectionError(")
    assert correction.extra["metadata"]["ls_model_name"] == "TgiBackend('http://127.0.0.1:9')"


def test_usage_is_counted(run: Run, aligner: Aligner) -> None:
    counting = UsageMetadataCallbackHandler()
    run(Upstream() | AlignerRunnable(aligner=aligner), QUESTION, config={"callbacks": [counting]})
    assert counting.usage_metadata[MODEL]["total_tokens"] == 15


@pytest.mark.parametrize("policy", ["draft", "refuse"])
def test_a_failure_that_the_caller_does_not_see(policy: Any, run: Run, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url, on_failure=policy) as aligner, collect_runs() as collected:
        run(Upstream() | AlignerRunnable(aligner=aligner), QUESTION)
    (root,) = collected.traced_runs
    correction = root.child_runs[1].child_runs[0]
    assert correction.error.startswith("GenerationError(")
    assert "on fire" in correction.error
    assert root.error is None


def test_a_failure_that_the_caller_sees(run: Run, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(speak(finish_reason="length"))
    failing = pytest.raises(AlignerError, match="token limit")
    with Aligner.from_tgi(server.url) as aligner, collect_runs() as collected, failing:
        run(Upstream() | AlignerRunnable(aligner=aligner), QUESTION)
    (root,) = collected.traced_runs
    assert "TruncatedCorrectionError" in root.child_runs[1].child_runs[0].error
    assert "TruncatedCorrectionError" in root.error


def test_the_draft_is_the_input_of_the_runnables_run(aligner: Aligner) -> None:
    with collect_runs() as collected:
        AlignerRunnable(aligner=aligner).invoke([HumanMessage(QUESTION), AIMessage(DRAFT)])
    assert collected.traced_runs[0].inputs["input"][1].text == DRAFT
