"""The Aligner: a query and a draft in, a corrected answer out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from aligner_chains import portal
from aligner_chains.backends.base import Backend, GenerationChunk, GenerationRequest, ModelInfo
from aligner_chains.backends.from_settings import backend_from
from aligner_chains.budget import fit, refuse_hopeless
from aligner_chains.concurrency import map_ordered
from aligner_chains.correction import Correction, CorrectionChunk
from aligner_chains.description import plain
from aligner_chains.errors import AlignerError, CorrectionsFailedError, StreamInterruptedError
from aligner_chains.exchange import Exchange
from aligner_chains.feedback import Feedback
from aligner_chains.guard import Guard
from aligner_chains.job import IncomingAnswer, Job, Options
from aligner_chains.model_config import AlignerConfig, check_path, config_for_model
from aligner_chains.prompts import PromptFormat, PromptFormatName
from aligner_chains.prompts import prompt_format as find_prompt_format
from aligner_chains.resilience import with_retries
from aligner_chains.settings import OnFailure, Settings, check_count


class Aligner:
    """Corrects draft answers with an Aligner model (arXiv 2402.02416).

    `Aligner()` takes its model from the environment (`ALIGNER_URL`, `ALIGNER_MODEL`, ...; see `Settings`) and is the
    embedded one where nothing is set. `from_tgi`, `from_openai`, `from_pretrained` and `embedded` say which.

    An Aligner may be shared by any number of threads and event loops. It holds connections open; they close with the
    event loop, or by `close`, `aclose` or a `with` block.

    Args:
        backend: What runs the model; `None` for the one that the environment names.
        prompt_format: The format that the model was trained on, where its name does not tell.
        feedback: What to make answers more of; a name, an objective or a `Feedback`.
        on_failure: When no whole, valid correction arrives: `"raise"` the error, pass the `"draft"` on, or `"refuse"`
            with a fixed sentence. The last two are labelled by the outcome `failed` and the error.
        timeout: Seconds for a whole correction, retries included; `math.inf` for no limit.
        max_new_tokens: The most tokens that a correction may have; by default what the model's context leaves.
        min_confidence: The least mean token probability (0 to 1) of a correction that is trusted; below it the draft
            stays.
        guard: All rules for trusting a correction; by default those that come with the model.
        max_concurrency: How many of `correct_many`'s corrections, and of requests at a server, are under way at once.

    Attributes:
        description: How it was made, in JSON's types and without its key; `None` if it was given a backend.
        model: The model's name; as long as nobody has told it, where the model is.

    Raises:
        ConfigurationError: An argument, or a variable in the environment, is not of its kind.
    """

    def __init__(
        self,
        backend: Backend | None = None,
        *,
        prompt_format: PromptFormat | PromptFormatName | None = None,
        feedback: Feedback | str | None = None,
        on_failure: OnFailure | None = None,
        timeout: float | None = None,
        max_new_tokens: int | None = None,
        min_confidence: float | None = None,
        guard: Guard | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        settings = Settings() if backend is not None else Settings.from_env()
        self._max_concurrency = check_count(
            "max_concurrency", settings.max_concurrency if max_concurrency is None else max_concurrency
        )
        name = settings.prompt if prompt_format is None else prompt_format
        self._prompt_format = None if name is None else find_prompt_format(name)
        self._options = Options(
            feedback=Feedback.HELPFUL_AND_HARMLESS if settings.feedback is None else Feedback.of(settings.feedback),
            on_failure=settings.on_failure,
            timeout=settings.timeout,
            max_new_tokens=settings.max_new_tokens,
        ).updated(feedback=feedback, on_failure=on_failure, timeout=timeout, max_new_tokens=max_new_tokens)
        self._guard = guard
        self._min_confidence = settings.min_confidence if min_confidence is None else min_confidence
        Guard(min_confidence=self._min_confidence)  # refuses what is no probability
        self._configs: dict[str, AlignerConfig] = {}
        self._backend = backend or backend_from(settings, self._max_concurrency)
        model = getattr(self._backend, "name", None)  # a backend need not have one
        self._model = model if isinstance(model, str) else None
        self.description: dict[str, Any] | None = None
        if backend is None:
            self.description = plain(
                {
                    "made_by": "environment",
                    "prompt_format": prompt_format,
                    "feedback": feedback,
                    "on_failure": on_failure,
                    "timeout": timeout,
                    "max_new_tokens": max_new_tokens,
                    "min_confidence": min_confidence,
                    "guard": guard,
                    "max_concurrency": max_concurrency,
                }
            )

    @classmethod
    def from_tgi(
        cls,
        url: str,
        *,
        api_key: str | None = None,
        max_concurrency: int = 64,
        parameters: Mapping[str, object] | None = None,
        **options: Any,
    ) -> Aligner:
        """An Aligner behind Text Generation Inference.

        Args:
            url: The server's root, `http://gpu-1:8080`.
            api_key: The server's `--api-key`.
            max_concurrency: The most requests under way at once.
            parameters: TGI's generation parameters over the default of greedy decoding.
            **options: What `Aligner` takes.
        """
        from aligner_chains.backends.tgi import TgiBackend

        backend = TgiBackend(url, api_key=api_key, max_concurrency=max_concurrency, parameters=parameters)
        arguments = {"max_concurrency": max_concurrency, **options}
        aligner = cls(backend, **arguments)
        aligner.description = plain({"made_by": "tgi", "url": backend.url, "parameters": parameters, **arguments})
        return aligner

    @classmethod
    def from_openai(
        cls,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        max_concurrency: int = 64,
        max_total_tokens: int | None = None,
        parameters: Mapping[str, object] | None = None,
        **options: Any,
    ) -> Aligner:
        """An Aligner behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`.

        Args:
            url: The address that ends in `/v1`.
            model: The model's name there; may be left out if there is only one.
            api_key: The server's key.
            max_concurrency: The most requests under way at once.
            max_total_tokens: The model's context in tokens, where the server does not tell.
            parameters: Further fields of the request, over the default of greedy decoding.
            **options: What `Aligner` takes.
        """
        from aligner_chains.backends.openai import OpenAIBackend

        backend = OpenAIBackend(
            url,
            model=model,
            api_key=api_key,
            max_concurrency=max_concurrency,
            max_total_tokens=max_total_tokens,
            parameters=parameters,
        )
        arguments = {"max_concurrency": max_concurrency, **options}
        aligner = cls(backend, **arguments)
        aligner.description = plain(
            {
                "made_by": "openai",
                "url": backend.url,
                "model": model,
                "max_total_tokens": max_total_tokens,
                "parameters": parameters,
                **arguments,
            }
        )
        return aligner

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, device: str | None = None, dtype: str | None = None, **options: Any
    ) -> Aligner:
        """An Aligner that runs in this process, on transformers.

        Args:
            model: A folder or hub id of a causal language model.
            device: `"cuda"`, `"mps"`, `"cpu"`, ...; by default the best there is.
            dtype: `"bfloat16"`, `"float32"`, ...; by default what suits the device.
            **options: What `Aligner` takes.

        Raises:
            ModelLoadError: There is no such model, or it is not a causal language model.
            PromptFormatError: Nothing tells which prompt format the model was trained on.
            MissingDependencyError: torch or transformers is not installed.
        """
        from aligner_chains.backends.local import LocalBackend

        if options.get("prompt_format") is None:
            check_path(model)
            config_for_model(str(model))  # what is unknown now would fail at the first draft
        aligner = cls(LocalBackend.from_pretrained(model, device=device, dtype=dtype), **options)
        aligner.description = plain(
            {"made_by": "pretrained", "model": model, "device": device, "dtype": dtype, **options}
        )
        return aligner

    @classmethod
    def embedded(cls, **options: Any) -> Aligner:
        """The small Aligner that comes with the package: on the CPU, offline, for trying things out.

        Args:
            **options: What `Aligner` takes.
        """
        from aligner_chains.backends.local import LocalBackend

        aligner = cls(LocalBackend.embedded(), **options)
        aligner.description = plain({"made_by": "embedded", **options})
        return aligner

    def __repr__(self) -> str:
        options = self._options
        return f"Aligner({self._backend!r}, feedback={options.feedback.objective!r}, on_failure={options.on_failure!r})"

    @property
    def model(self) -> str:
        """The model's name; as long as nobody has told it, where the model is."""
        return self._model or repr(self._backend)

    async def acorrect(
        self,
        query: str,
        draft: str,
        *,
        feedback: Feedback | str | None = None,
        on_failure: OnFailure | None = None,
        timeout: float | None = None,
        max_new_tokens: int | None = None,
    ) -> Correction:
        """The corrected answer.

        Args:
            query: What the user asked.
            draft: The answer to correct.
            feedback: For this draft, in place of the Aligner's own.
            on_failure: For this draft, in place of the Aligner's own.
            timeout: For this draft, in place of the Aligner's own, in seconds.
            max_new_tokens: For this draft, in place of the Aligner's own.

        Raises:
            InvalidTypeError: Query or draft is not a string.
            ConfigurationError, InvalidInputError: Whatever `on_failure` says, an option or the feedback is none.
            AlignerError: With `on_failure="raise"`, whatever kept a whole, valid correction from arriving.
        """
        job = Job.begin(
            query,
            draft,
            self._options.updated(
                feedback=feedback, on_failure=on_failure, timeout=timeout, max_new_tokens=max_new_tokens
            ),
        )
        try:
            return await self._correct(job)
        except AlignerError as error:
            return job.failed(error)

    async def astream(
        self,
        query: str,
        draft: str,
        *,
        feedback: Feedback | str | None = None,
        on_failure: OnFailure | None = None,
        timeout: float | None = None,
        max_new_tokens: int | None = None,
    ) -> AsyncGenerator[CorrectionChunk, None]:
        """Yields the corrected answer as it is written; the last chunk carries the whole `Correction`.

        With a guard nothing is yielded before the correction is whole and trusted. Closing the generator stops the
        model.

        Args:
            query: What the user asked.
            draft: The answer to correct.
            feedback: For this draft, in place of the Aligner's own.
            on_failure: For this draft, in place of the Aligner's own; a failure after the first chunk always raises.
            timeout: For this draft, in place of the Aligner's own, in seconds.
            max_new_tokens: For this draft, in place of the Aligner's own.

        Raises:
            InvalidTypeError: Query or draft is not a string.
            ConfigurationError, InvalidInputError: Whatever `on_failure` says, an option or the feedback is none.
            StreamInterruptedError: It failed after a part was yielded; the part is in its `sent`.
            AlignerError: With `on_failure="raise"`, whatever kept the first chunk from arriving.
        """
        job = Job.begin(
            query,
            draft,
            self._options.updated(
                feedback=feedback, on_failure=on_failure, timeout=timeout, max_new_tokens=max_new_tokens
            ),
        )
        sent: list[str] = []

        async def attempt() -> tuple[AsyncGenerator[GenerationChunk, None], IncomingAnswer, CorrectionChunk]:
            # A stream that dies before its first chunk has said nothing yet, and can be opened again.
            request, answer = await self._prepare(job)
            stream = self._backend.stream(request)
            try:
                return stream, answer, await answer.next_chunk(stream)
            except BaseException:
                await stream.aclose()
                raise

        try:
            # The deadline bounds each wait for the server, never the time that the consumer takes between two chunks: a
            # cancel scope must not be open across a yield.
            stream, answer, chunk = await job.deadline.bound(with_retries(attempt, job.deadline))
            async with aclosing(stream):
                while True:
                    if chunk.text:
                        sent.append(chunk.text)
                    yield chunk
                    if chunk.correction is not None:
                        return
                    chunk = await job.deadline.bound(answer.next_chunk(stream))
        except AlignerError as error:
            if sent:
                text = "".join(sent)
                raise StreamInterruptedError(
                    f"The correction broke off after {len(text)} characters that were handed out already, ending in "
                    f"{text[-40:]!r}: {error}",
                    sent=text,
                ) from error
            correction = job.failed(error)
            yield CorrectionChunk(correction.text, correction)

    def correct(
        self,
        query: str,
        draft: str,
        *,
        feedback: Feedback | str | None = None,
        on_failure: OnFailure | None = None,
        timeout: float | None = None,
        max_new_tokens: int | None = None,
    ) -> Correction:
        """What `acorrect` returns, for code that is not async; works inside a running event loop too."""
        return portal.run(
            lambda: self.acorrect(
                query, draft, feedback=feedback, on_failure=on_failure, timeout=timeout, max_new_tokens=max_new_tokens
            )
        )

    def stream(
        self,
        query: str,
        draft: str,
        *,
        feedback: Feedback | str | None = None,
        on_failure: OnFailure | None = None,
        timeout: float | None = None,
        max_new_tokens: int | None = None,
    ) -> Generator[CorrectionChunk, None, None]:
        """What `astream` yields, for code that is not async; works inside a running event loop too."""
        return portal.iterate(
            lambda: self.astream(
                query, draft, feedback=feedback, on_failure=on_failure, timeout=timeout, max_new_tokens=max_new_tokens
            )
        )

    async def acorrect_many(self, pairs: Iterable[tuple[str, str]], **options: Any) -> list[Correction]:
        """The corrections of many (query, draft) pairs, in their order, `max_concurrency` at a time.

        Args:
            pairs: Queries and drafts.
            **options: What `acorrect` takes, for all pairs.

        Raises:
            CorrectionsFailedError: With `on_failure="raise"`, after all pairs were tried, if some failed; it carries
                the others.
        """

        async def attempt(pair: tuple[str, str]) -> Correction | AlignerError:
            try:
                return await self.acorrect(*pair, **options)
            except AlignerError as error:
                return error

        results = [result async for result in map_ordered(attempt, pairs, limit=self._max_concurrency)]
        errors = {index: result for index, result in enumerate(results) if isinstance(result, AlignerError)}
        corrections = [None if isinstance(result, AlignerError) else result for result in results]
        if errors:
            raise CorrectionsFailedError(corrections, errors)
        return [correction for correction in corrections if correction is not None]

    def correct_many(self, pairs: Iterable[tuple[str, str]], **options: Any) -> list[Correction]:
        """What `acorrect_many` returns, for code that is not async; all pairs are taken before the first is sent."""
        # Here, not in the loop that all synchronous calls share: an iterator may wait for a model, or correct itself.
        taken = list(pairs)
        return portal.run(lambda: self.acorrect_many(taken, **options))

    def fallback(
        self, query: str, draft: str, error: AlignerError, *, on_failure: OnFailure | None = None
    ) -> Correction:
        """What `on_failure` makes of an error: for whoever corrects with `"raise"` because there is more to try.

        Args:
            query: What the user asked.
            draft: The answer to correct.
            error: Why there is no correction.
            on_failure: In place of the Aligner's own.

        Raises:
            AlignerError: With `on_failure="raise"`, the error.
        """
        return Job.begin(query, draft, self._options.updated(on_failure=on_failure)).failed(error)

    async def aclose(self) -> None:
        """Closes the connections of this event loop; a local model writes no more."""
        await self._backend.aclose()

    def close(self) -> None:
        """Closes the connections that `correct` and its siblings use; a local model writes no more."""
        portal.run(self.aclose)

    async def __aenter__(self) -> Aligner:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Aligner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _correct(self, job: Job) -> Correction:
        async def attempt() -> Correction:
            request, answer = await self._prepare(job)
            if not answer.guard.reject_repetition:
                return answer.conclude(await self._backend.generate(request))
            # A model that loops is not heard to its end. With a guard the first chunk is the whole correction.
            async with aclosing(self._backend.stream(request)) as stream:
                chunk = await answer.next_chunk(stream)
            assert chunk.correction is not None
            return chunk.correction

        return await job.deadline.bound(with_retries(attempt, job.deadline))

    async def _prepare(self, job: Job) -> tuple[GenerationRequest, IncomingAnswer]:
        info = await self._backend.info()
        self._model = info.name
        prompt_format, guard = self._known_about(info)
        max_new_tokens = job.options.max_new_tokens
        refuse_hopeless(job.query, job.draft, info=info, max_new_tokens=max_new_tokens)
        exchange = Exchange.prepare(
            job.query,
            job.draft,
            job.options.feedback,
            prompt_format=prompt_format,
            special_tokens=info.special_tokens,
        )
        room = await fit(exchange.prompt, job.draft, info=info, backend=self._backend, max_new_tokens=max_new_tokens)
        request = GenerationRequest(exchange.prompt, room, logprobs=guard.needs_logprobs)
        return request, IncomingAnswer(job, exchange.reader(), guard, model=info.name)

    def _known_about(self, info: ModelInfo) -> tuple[PromptFormat, Guard]:
        config = self._configs.get(info.name)
        if config is None:
            config = config_for_model(info.path or info.name, self._prompt_format)
            if self._guard is not None:
                config = replace(config, guard=self._guard)
            if self._min_confidence is not None:
                config = replace(config, guard=replace(config.guard, min_confidence=self._min_confidence))
            self._configs[info.name] = config
        return config.prompt_format, config.guard
