"""A short draft is in many a long answer: its question is that of the answer of which it is the most."""

from __future__ import annotations

import pytest
from hostile import HostileServer
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from upstream import Upstream
from ways import Run

from aligner_chains import Aligner
from langchain_aligner import AlignerRunnable


@pytest.mark.parametrize(
    ("longer", "answer"),
    [("Look into the knowledge base.", "No."), ("France. Its capital is Paris, since 987.", "Paris.")],
    ids=["in-a-word", "in-a-sentence"],
)
def test_a_short_answer_without_its_full_stop(
    longer: str, answer: str, run: Run, aligner: Aligner, server: HostileServer
) -> None:
    chain = (
        RunnableLambda(lambda question: f"Where is it said: {question}")
        | Upstream(turns=(longer,))
        | RunnableLambda(lambda _: "Yes or no: is it so?")
        | Upstream(turns=(answer,))
        | StrOutputParser()
        | RunnableLambda(lambda text: text.removesuffix("."))
    )
    run(chain | AlignerRunnable(aligner=aligner), "Is it safe?")
    (request,) = server.generations
    assert f": Yes or no: is it so? | {answer.removesuffix('.')} ASSISTANT:" in request.prompt
