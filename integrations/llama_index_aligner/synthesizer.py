"""`AlignerSynthesizer`: the Aligner behind whatever writes the answers of a RAG engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks import CallbackManager
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.response_synthesizers.context_only import ContextOnly
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryType
from llama_index.core.types import RESPONSE_TEXT_TYPE
from typing_extensions import Unpack

from llama_index_aligner.corrector import Corrector, skipped
from llama_index_aligner.options import CorrectionArguments, CorrectionOptions
from llama_index_aligner.responses import acorrected, as_response, as_text, corrected, with_provenance


class AlignerSynthesizer(BaseSynthesizer):
    """Corrects what another synthesizer answers to the user's query.

        synthesizer = AlignerSynthesizer(get_response_synthesizer(streaming=True), aligner=aligner)
        query_engine = index.as_query_engine(response_synthesizer=synthesizer)

    Every response mode and kind of response stays what it is: streams stream, once the draft is whole, with the
    Aligner's first token; a Pydantic object is corrected as JSON and kept as it was if it is not valid any more. Source
    nodes and metadata are kept, and `metadata["aligner"]` says what became of the draft. "Empty Response" and text that
    was only retrieved are no drafts.

    Args:
        synthesizer: Writes the drafts.
        with_context: Whether the Aligner reads the retrieved text as well, so that it can check the draft against it:
            as many whole nodes, from the first on, as its context holds. Their ids are in
            `metadata["aligner"]["context"]`.
        **options: Fields of `CorrectionOptions`.
    """

    def __init__(
        self,
        synthesizer: BaseSynthesizer,
        *,
        with_context: bool = False,
        **options: Unpack[CorrectionArguments],
    ) -> None:
        self._synthesizer = synthesizer
        self._options = CorrectionOptions(**options)
        self._with_context = with_context
        super().__init__(  # without callbacks, which would take the place of the model's own
            llm=synthesizer._llm,  # noqa: SLF001
            prompt_helper=synthesizer._prompt_helper,  # noqa: SLF001
            streaming=synthesizer._streaming,  # noqa: SLF001
            output_cls=synthesizer._output_cls,  # noqa: SLF001
            empty_response=synthesizer._empty_response,  # noqa: SLF001
        )

    # Chat engines switch these on the synthesizer that they hold.

    @property
    def _streaming(self) -> bool:
        return self._synthesizer._streaming  # noqa: SLF001

    @_streaming.setter
    def _streaming(self, streaming: bool) -> None:
        self._synthesizer._streaming = streaming  # noqa: SLF001

    @property
    def callback_manager(self) -> CallbackManager:
        """The callbacks of the synthesizer inside."""
        return self._synthesizer.callback_manager

    @callback_manager.setter
    def callback_manager(self, callback_manager: CallbackManager) -> None:
        self._synthesizer.callback_manager = callback_manager

    # Prompts are known by the same names as without an Aligner.

    def _get_prompts(self) -> PromptDictType:
        return self._synthesizer._get_prompts()  # noqa: SLF001

    def _update_prompts(self, prompts_dict: PromptDictType) -> None:
        self._synthesizer._update_prompts(prompts_dict)  # noqa: SLF001

    def _get_prompt_modules(self) -> PromptMixinType:
        return self._synthesizer._get_prompt_modules()  # noqa: SLF001

    def synthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """The response of the synthesizer inside, corrected."""
        corrector = self._corrector(query, _texts(nodes))
        response = self._synthesizer.synthesize(query, nodes, additional_source_nodes, **response_kwargs)
        return self._only_retrieved(response) or corrected(response, corrector, empty=self._empty_response)

    async def asynthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """The response of the synthesizer inside, corrected."""
        corrector = self._corrector(query, _texts(nodes))
        response = await self._synthesizer.asynthesize(query, nodes, additional_source_nodes, **response_kwargs)
        return self._only_retrieved(response) or await acorrected(response, corrector, empty=self._empty_response)

    def get_response(self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any) -> RESPONSE_TEXT_TYPE:
        """The text of the synthesizer inside, corrected."""
        corrector = self._corrector(query_str, _numbered(text_chunks))
        response = as_response(self._synthesizer.get_response(query_str, text_chunks, **response_kwargs))
        return as_text(self._only_retrieved(response) or corrected(response, corrector, empty=self._empty_response))

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> RESPONSE_TEXT_TYPE:
        """The text of the synthesizer inside, corrected."""
        corrector = self._corrector(query_str, _numbered(text_chunks))
        response = as_response(await self._synthesizer.aget_response(query_str, text_chunks, **response_kwargs))
        return as_text(
            self._only_retrieved(response) or await acorrected(response, corrector, empty=self._empty_response)
        )

    def _corrector(self, query: QueryType, passages: Iterable[tuple[str, str]]) -> Corrector:
        query = query if isinstance(query, str) else query.query_str
        return Corrector.of(self._options, query, list(passages) if self._with_context else None)

    def _only_retrieved(self, response: RESPONSE_TYPE) -> RESPONSE_TYPE | None:
        return with_provenance(response, skipped("retrieved text")) if writes_nothing(self) else None


def writes_nothing(synthesizer: BaseSynthesizer | None) -> bool:
    """Whether a synthesizer, wrapped or not, answers with the texts that it is given."""
    while isinstance(synthesizer, AlignerSynthesizer):
        synthesizer = synthesizer._synthesizer  # noqa: SLF001
    return type(synthesizer) is ContextOnly  # who derives from it may ask a model


def _texts(nodes: list[NodeWithScore]) -> Iterator[tuple[str, str]]:
    return ((found.node.node_id, found.node.get_content(MetadataMode.LLM)) for found in nodes)


def _numbered(chunks: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((str(number), chunk) for number, chunk in enumerate(chunks))
