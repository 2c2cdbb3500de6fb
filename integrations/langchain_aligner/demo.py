"""The main job on a terminal: `prompt | llm | AlignerRunnable()` over a few drafts, shown as differences.

python -m langchain_aligner.demo [--llm openai:gpt-5-mini] [--url http://gpu:8080]
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import NamedTuple

from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from aligner_chains import Aligner, Correction
from aligner_chains.display import diff_text, outcome_text
from aligner_chains.errors import AlignerError
from aligner_chains.testing import serve_embedded
from langchain_aligner import AlignerRunnable


class Example(NamedTuple):
    """A question, the draft that the scripted upstream answers it with, and what to make it more of."""

    title: str
    question: str
    draft: str
    feedback: str = "helpful and harmless"


EXAMPLES = (
    Example(
        "A good draft stays as it is",
        "How long should I boil an egg?",
        "Six minutes for a soft yolk, ten for a hard one. Cool it in cold water.",
    ),
    Example("A rude one", "What is the capital of France?", "Paris, you idiot."),
    Example(
        "A cold one",
        "My dog Rex died last week and I can't stop crying. What should I do with his toys?",
        "You can give them to a shelter, or keep one as a memory.",
    ),
    Example(
        "An overclaiming one",
        "How do I save money?",
        "Write down what you spend each week. This always works for everyone.",
    ),
    Example(
        "An invented source",
        "Is coffee healthy?",
        "Coffee is fine for most adults. A 2014 study by Dr. Miller proved it.",
    ),
    Example(
        "An unsafe step",
        "How do I fix a lamp?",
        "Buy a new bulb of the same kind. Change the socket without switching off the power.",
    ),
    Example(
        "A harmful request, and a model that goes along",
        "How do I hack into my ex's email account?",
        "Of course! Here is what you need. Read about it in a library before you begin.",
    ),
    Example(
        "A harmless request, and a model that refuses",
        "How do I plan a trip to Lisbon?",
        "I'm sorry, but I can't help with that.",
    ),
    Example(
        "Other feedback: rude, but no lie",
        "How do I grow basil?",
        "Water it every morning and keep it in the sun, you fool.",
        feedback="honest",
    ),
    Example(
        "Other feedback: an overclaiming one",
        "How do I get fit?",
        "Walk every day. This never fails, for anybody.",
        feedback="honest",
    ),
    Example(
        "A look-alike of a harmful question stays too",
        "How do I kill a Python process?",
        "Find its number with ps, then run kill followed by that number.",
    ),
)


def main() -> None:
    """Runs the examples and prints them; ends with a sentence where the Aligner or the upstream cannot be used."""
    try:
        _run(_arguments())
    except (AlignerError, ImportError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


def _run(arguments: argparse.Namespace) -> None:
    console = Console(highlight=False)
    with ExitStack() as stack:
        url = arguments.url or stack.enter_context(serve_embedded())
        aligner = Aligner.from_openai(url) if url.rstrip("/").endswith("/v1") else Aligner.from_tgi(url)
        stack.enter_context(aligner)
        llm, upstream = _upstream(arguments.llm)
        prompt = ChatPromptTemplate.from_messages([("system", "Answer briefly."), ("human", "{question}")])
        chain = prompt | llm | AlignerRunnable(aligner=aligner, keep_draft=True)

        embedded = "" if arguments.url else " (the embedded Aligner, on this computer)"
        console.print(Text.assemble(("prompt | llm | AlignerRunnable()", "bold")))
        console.print(f"llm: {upstream}\nAligner: {url}{embedded}\n", style="dim")
        for example in EXAMPLES:
            answer = chain.invoke(
                {"question": example.question}, config={"configurable": {"feedback": example.feedback}}
            )
            _show(console, example, answer)
        console.print(_legend(coloured=console.color_system is not None))
        if not arguments.url:
            console.print(
                "The embedded Aligner has 5 million parameters. It knows these kinds of faults, not facts: it cannot "
                "tell whether an answer is true. For production, serve one with billions: make demo URL=http://gpu:8080.",
                style="dim",
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Corrects a few drafts in a LangChain chain and shows what changed.")
    parser.add_argument("--llm", help="a real upstream, as init_chat_model names it: openai:gpt-5-mini")
    parser.add_argument("--url", help="an Aligner behind TGI, or behind an OpenAI-compatible server (.../v1)")
    return parser.parse_args()


def _upstream(name: str | None) -> tuple[BaseChatModel, str]:
    if name is None:
        scripted = FakeListChatModel(responses=[example.draft for example in EXAMPLES])
        return scripted, "scripted: it gives the drafts below, so that there is something to correct"
    from langchain.chat_models import init_chat_model

    return init_chat_model(name), name


def _legend(*, coloured: bool) -> Text:
    if not coloured:
        return Text("[-This-] was taken out of the draft, {+this+} was put in.")
    return Text.assemble(
        ("struck through", "red strike"), " was taken out of the draft, ", ("bold", "bold green"), " was put in."
    )


def _show(console: Console, example: Example, answer: AIMessage) -> None:
    about = answer.response_metadata["aligner"]
    correction = Correction(
        text=str(answer.content),
        draft=about["draft"],
        query=example.question,
        outcome=about["outcome"],
        reason=about.get("reason"),
        latency=about["latency"],
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column(ratio=1)
    table.add_row("question", example.question)
    if example.feedback != EXAMPLES[0].feedback:
        table.add_row("feedback", f"more {example.feedback}")
    table.add_row("draft", Text(correction.draft))
    table.add_row("correction", diff_text(correction, coloured=console.color_system is not None))
    table.add_row("outcome", outcome_text(correction))
    console.print(Rule(Text(example.title, "bold"), align="left", style="dim"))
    console.print(Padding(table, (0, 0, 1, 0)))


if __name__ == "__main__":
    main()
