"""The correction seen from outside: a model call of its own, with its tokens and its failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hostile import HostileServer, refuse, speak
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tracers.context import collect_runs
from langchain_core.tracers.schemas import Run as TracedRun
from upstream import DRAFT, Upstream
from ways import Run

from aligner_chains import Aligner
from aligner_chains.errors import AlignerError
from langchain_aligner import AlignerRunnable

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
