"""The command line: `aligner-chains correct | serve | train | cut | average | evaluate-embedded | data`."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from aligner_chains._version import __version__
from aligner_chains.aligner import Aligner
from aligner_chains.backends.from_settings import backend_from, is_openai_address
from aligner_chains.correction import Correction
from aligner_chains.display import diff_text, outcome_text
from aligner_chains.errors import AlignerError, ConfigurationError, MissingDependencyError
from aligner_chains.lines import correct_lines, json_line
from aligner_chains.model_config import EMBEDDED_PATH
from aligner_chains.prompts import PROMPT_FORMATS
from aligner_chains.settings import OnFailure, Settings

app = typer.Typer(
    name="aligner-chains",
    help=(
        "Corrects the answers of any language model with an Aligner: a small model that reads a question and a draft "
        "answer and writes the answer as it should be.\n\n"
        "Without --url and --model, and without ALIGNER_URL and ALIGNER_MODEL in the environment, the embedded Aligner "
        "does the work: tiny, on the CPU, offline, to try things out."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
data_app = typer.Typer(help="Makes data to train an Aligner on.", no_args_is_help=True)
app.add_typer(data_app, name="data")

_errors = Console(stderr=True, highlight=False)
_TRAINING_NEEDS = "Training needs torch and transformers: pip install 'aligner-chains[train]'."
_FORMATS = ", ".join(PROMPT_FORMATS)


def main() -> None:
    """The `aligner-chains` command."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        app()
    except AlignerError as error:
        _fail(error)


@app.callback(invoke_without_command=True)
def _root(
    *, version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def correct(
    query: Annotated[str | None, typer.Argument(help="What the user asked.", show_default=False)] = None,
    draft: Annotated[str | None, typer.Argument(help="The answer to correct.", show_default=False)] = None,
    *,
    feedback: Annotated[
        str | None, typer.Option(help="What to make the answer more of: empathetic, honest, concise, ...")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="TGI's root, or an OpenAI-compatible address that ends in /v1.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="With a /v1 address the model's name there; else a folder or hub id to load here."),
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="The server's key.")] = None,
    prompt_format: Annotated[str | None, typer.Option(help=f"What the model was trained on: {_FORMATS}.")] = None,
    on_failure: Annotated[
        OnFailure | None,
        typer.Option(help="When no correction arrives: raise, draft (pass it on, labelled) or refuse."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for a whole correction.")] = None,
    max_concurrency: Annotated[int | None, typer.Option(help="How many pairs of a file at a time.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything that is known, as JSON.")] = False,
    as_diff: Annotated[bool, typer.Option("--diff", help="Show what changed, in colour.")] = False,
) -> None:
    r"""Corrects an answer, or a file of them.

    For example:

        aligner-chains correct "What is the capital of France?" "Paris, you fool." --diff

        aligner-chains correct --url http://gpu-1:8080 --feedback empathetic "My cat died." "Get a new one."

        aligner-chains correct < pairs.jsonl > corrected.jsonl

    Without arguments it reads one JSON object a line from standard input, {"query": ..., "draft": ...}, also with
    "feedback", and prints one result a line, in the same order. A pair that fails is a line with its error and,
    unless --on-failure says otherwise, without a text; the exit status is then 1. Other fields of a line are in its
    result too; those that have the name of one of the result's, such as "model" and "text", are there in "input".

    What no option says is taken from the environment: ALIGNER_URL, ALIGNER_MODEL, ALIGNER_API_KEY, ALIGNER_PROMPT (for
    --prompt-format), ALIGNER_FEEDBACK, ALIGNER_ON_FAILURE, ALIGNER_TIMEOUT, ALIGNER_MAX_CONCURRENCY, and without an
    option ALIGNER_MIN_CONFIDENCE and ALIGNER_MAX_NEW_TOKENS. Model, key and prompt format go with the place that
    ALIGNER_URL or ALIGNER_MODEL names: they are left out with another --url, or a --model to load here.
    """
    if (query is None) != (draft is None):
        raise typer.BadParameter("give both a question and a draft, or neither and pairs on standard input.")
    if query is None and as_diff:
        raise typer.BadParameter("--diff shows one correction: give a question and a draft.")
    if query is None and (sys.stdin is None or sys.stdin.isatty()):
        raise typer.BadParameter(
            'give a question and a draft, or pairs on standard input: {"query": ..., "draft": ...}.'
        )
    settings = _settings(
        url,
        model,
        api_key=api_key,
        prompt=prompt_format,
        feedback=feedback,
        on_failure=on_failure,
        timeout=timeout,
        max_concurrency=max_concurrency,
    )
    aligner = _aligner(settings)
    if query is not None and draft is not None:
        _print(aligner.correct(query, draft), as_json=as_json, as_diff=as_diff)
    elif not asyncio.run(correct_lines(aligner, max_concurrency or min(_LINES_AT_A_TIME, settings.max_concurrency))):
        raise typer.Exit(1)


@app.command()
def serve(
    model: Annotated[
        str | None, typer.Option(help="A folder or hub id of an Aligner; left out, the embedded one.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen at; 0 for a free one.")] = 8080,
    api_key: Annotated[
        str | None, typer.Option(help="What clients must send as a bearer token.", envvar="ALIGNER_API_KEY")
    ] = None,
    max_concurrent_requests: Annotated[
        int, typer.Option(help="Requests beyond that are refused with 429, as TGI does.")
    ] = 128,
) -> None:
    """Serves an Aligner over Text Generation Inference's HTTP API, for trying things out.

    It answers one request after the other, on the CPU if need be. For many users at once serve the same model with
    TGI or
    vLLM: applications talk to all of them in the same way.

    For example:

        aligner-chains serve

        aligner-chains serve --model aligner/aligner-7b-v1.0 --host 0.0.0.0 --api-key "$KEY"
    """
    from aligner_chains.backends.local import LocalBackend
    from aligner_chains.server import Limits
    from aligner_chains.server import serve as run_server

    console = Console(highlight=False)
    console.print(f"Loading {model or 'the embedded Aligner'} ...", style="dim")
    backend = LocalBackend.from_pretrained(model) if model else LocalBackend.embedded()
    asyncio.run(
        run_server(
            backend,
            host=host,
            port=port,
            api_key=api_key,
            limits=Limits(max_concurrent_requests=max_concurrent_requests),
            on_ready=lambda url: console.print(f"Listening at {url} (Ctrl-C stops). Try it:\n\n{_try_it(url)}\n"),
        )
    )


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="The folder for the model, its curve and, meanwhile, its checkpoint.")],
    *,
    data: Annotated[
        Path | None, typer.Option(help="JSONL of triples (query, draft, correction); left out, composed ones.")
    ] = None,
    real: Annotated[
        Path | None, typer.Option(help="JSONL of triples whose texts are mixed into the composed ones.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="A causal language model to train further; left out, the embedded one's size.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="An Aligner that this command has made, to go on from, or a model that cut has.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="How many tokens to train on.")] = 36_000_000,
    processes: Annotated[int, typer.Option(help="How many processes share the work.")] = 1,
    batch_tokens: Annotated[int, typer.Option(help="The most tokens of a batch in each process.")] = 3000,
    seed: Annotated[int, typer.Option(help="Seed of weights, data and order.")] = 0,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate of AdamW.")] = None,
    muon_lr: Annotated[
        float, typer.Option(help="Peak learning rate of Muon, for Aligners like the embedded one; 0 for AdamW alone.")
    ] = 0.004,
    int4: Annotated[
        bool, typer.Option("--int4", help="Make a model of four bits a weight, which only this library reads.")
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Multiply in bfloat16: twice as fast, if the processor has it.")
    ] = False,
    torch_compile: Annotated[
        bool, typer.Option("--torch-compile", help="Compile the model first: a quarter faster, with a C++ compiler.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in OUT, if there is one.")
    ] = False,
) -> None:
    """Trains an Aligner: identity warm-up first, then correction.

    For example:

        aligner-chains train my-nano --tokens 36000000 --processes 2

        aligner-chains train my-aligner --base Qwen3-0.6B --data triples.jsonl.gz

    Every 200 steps it writes a checkpoint. Stopped after one, it goes on from there with --resume.
    """
    try:
        from aligner_chains.training.config import TrainingConfig
        from aligner_chains.training.trainer import train as run_training
    except ImportError as error:
        raise MissingDependencyError(_TRAINING_NEEDS) from error

    result = run_training(
        TrainingConfig(
            out=out,
            data=data,
            real=real,
            base=base,
            start=start,
            tokens=tokens,
            processes=processes,
            batch_tokens=batch_tokens,
            seed=seed,
            lr=lr,
            muon_lr=muon_lr or None,
            int4=int4,
            bf16=bf16,
            torch_compile=torch_compile,
            resume=resume,
        )
    )
    print(f"{result.path} is ready after {result.tokens:,} tokens in {result.steps:,} steps.")
    print(f'aligner-chains correct --model {result.path} "What is the capital of France?" "Paris, you fool." tries it.')


@app.command()
def cut(
    source: Annotated[str, typer.Argument(help="Folder or hub id of a small Llama model.")],
    out: Annotated[Path, typer.Argument(help="The folder for what is left of it.")],
    *,
    layers: Annotated[str, typer.Option(help="The layers to keep, from 0 on.")] = "0,1,2,16,17,18,19,20",
    feed_forward: Annotated[int, typer.Option(help="How wide to leave the feed-forward parts.")] = 1024,
    vocabulary: Annotated[int, typer.Option(help="How many tokens to keep.")] = 12_000,
    data: Annotated[
        Path | None, typer.Option(help="JSONL of triples that the tokens are chosen for; left out, composed ones.")
    ] = None,
    real: Annotated[
        Path | None, typer.Option(help="JSONL of triples whose texts are mixed into the composed ones.")
    ] = None,
) -> None:
    """Cuts a model out of a pretrained one, small enough to be trained as an embedded Aligner.

    For example:

        aligner-chains cut HuggingFaceTB/SmolLM2-135M-Instruct small

        aligner-chains train my-nano --start small --muon-lr 0 --lr 5e-4 --int4
    """
    try:
        from aligner_chains.training.config import TrainingConfig
        from aligner_chains.training.cut import cut_model
    except ImportError as error:
        raise MissingDependencyError(_TRAINING_NEEDS) from error

    parameters = cut_model(
        source,
        out,
        layers=_whole_numbers("--layers", layers),
        feed_forward=feed_forward,
        vocabulary=vocabulary,
        triples=TrainingConfig(out, data=data, real=real).triples(0),
    )
    print(f"{out} holds a model of {parameters:,} parameters.")


@app.command()
def average(
    models: Annotated[list[Path], typer.Argument(help="Folders of models that were trained from the same weights.")],
    *,
    out: Annotated[Path, typer.Option(help="The folder for the model.")],
) -> None:
    """Averages the weights of trained Aligners, which makes fewer mistakes than any of them.

    For example:

        aligner-chains train first --start my-nano --seed 1

        aligner-chains train second --start my-nano --seed 2

        aligner-chains average first second --out better
    """
    try:
        from aligner_chains.training.export import average_models
    except ImportError as error:
        raise MissingDependencyError(_TRAINING_NEEDS) from error

    average_models(models, out)
    print(f"{out} is ready, the mean of {len(models)} models.")


@app.command("evaluate-embedded")
def evaluate_embedded(
    *,
    model: Annotated[
        Path | None, typer.Option(help="The folder of an Aligner trained as the embedded one; left out, that one.")
    ] = None,
    count: Annotated[int, typer.Option(help="How many examples a row.", min=1)] = 200,
    real: Annotated[
        Path | None, typer.Option(help="JSONL of question, correction, license: short corrections are good drafts.")
    ] = None,
    drafts: Annotated[
        Path | None, typer.Option(help="JSONL of question, answer, kind: real drafts that must not be damaged.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same examples.")] = 0,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First choose the guard, on examples of another seed, and save it.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="A Markdown file to write; in one that exists, only the parts between markers.")
    ] = None,
) -> None:
    """Examines the embedded Aligner on examples that it was not trained on, with and without its guard.

    For example:

        aligner-chains evaluate-embedded --count 20

        aligner-chains evaluate-embedded --model my-nano --calibrate --report my-nano/README.md
    """
    from aligner_chains.evaluation.command import run

    run(
        model or EMBEDDED_PATH,
        count=count,
        real=real,
        drafts=drafts,
        seed=seed,
        save_guard=calibrate,
        report=report,
    )


@data_app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(help="The JSONL file to write; gzipped if its name ends in .gz.")],
    *,
    count: Annotated[int, typer.Option(help="How many triples.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same triples.")] = 0,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Compose from the phrasings that are never trained on.")
    ] = False,
) -> None:
    """Composes training triples (query, draft, correction, objective, kind) from hand-written phrasings.

    For example:

        aligner-chains data synthesize triples.jsonl.gz --count 100000
    """
    from aligner_chains.data import write_triples
    from aligner_chains.training.synthetic import synthesize as compose

    triples = compose(split="held_out" if held_out else "train", seed=seed)
    print(f"{write_triples(out, islice(triples, count)):,} triples in {out}.")


_LINES_AT_A_TIME = 16


def _whole_numbers(option: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ConfigurationError(f"{option} takes whole numbers with commas between them, not {text!r}.") from None


def _settings(url: str | None, model: str | None, **options: Any) -> Settings:
    """What the environment says, with the options in place of it."""
    settings = Settings.from_env()
    if url is None and (model is None or is_openai_address(settings.url)):
        url = settings.url
    place, known = url or model or settings.model, settings.url or settings.model
    if place and known and place.rstrip("/") != known.rstrip("/"):
        # Most of all the key: it must reach no other server than the one that it is for.
        settings = replace(settings, model=None, api_key=None, prompt=None)
    given = {name: value for name, value in (options | {"model": model}).items() if value is not None}
    return replace(settings, url=url, **given)


def _aligner(settings: Settings) -> Aligner:
    options: dict[str, Any] = {
        "prompt_format": settings.prompt,
        "feedback": settings.feedback,
        "on_failure": settings.on_failure,
        "timeout": settings.timeout,
        "max_new_tokens": settings.max_new_tokens,
        "min_confidence": settings.min_confidence,
        "max_concurrency": settings.max_concurrency,
    }
    if settings.url is None and settings.model is not None:
        return Aligner.from_pretrained(settings.model, **options)
    return Aligner(backend_from(settings, settings.max_concurrency), **options)


def _print(correction: Correction, *, as_json: bool, as_diff: bool) -> None:
    if as_json:
        print(json_line(correction.to_dict()))
    elif as_diff:
        console = Console(highlight=False)
        console.print(diff_text(correction, coloured=console.color_system is not None), soft_wrap=True)
        console.print(outcome_text(correction))
    else:
        print(correction.text)


def _try_it(url: str) -> str:
    return f'    aligner-chains correct --url {url} "What is the capital of France?" "Paris, you fool." --diff'


def _fail(error: AlignerError) -> NoReturn:
    _errors.print(f"[bold red]{type(error).__name__}[/]: ", end="")
    _errors.print(str(error), markup=False, soft_wrap=True)
    raise SystemExit(1)
