"""`AlignerQueryEngine`: the Aligner behind any query engine."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.query_engine import (
    CitationQueryEngine,
    RetrieverQueryEngine,
    RetryQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.schema import NodeWithScore, QueryBundle
from typing_extensions import Unpack

from llama_index_aligner.corrector import Corrector, skipped
from llama_index_aligner.options import CorrectionArguments, CorrectionOptions
from llama_index_aligner.responses import EMPTY_RESPONSE, acorrected, corrected, with_provenance
from llama_index_aligner.synthesizer import writes_nothing

# Engines whose answer is that of the engine inside, as it is.
_PASSING_ON = (RetryQueryEngine, TransformQueryEngine)
# Engines whose synthesizer gets retrieved text. Others give theirs what models have answered to questions of their own.
_RETRIEVING = (CitationQueryEngine, RetrieverQueryEngine)


class AlignerQueryEngine(BaseQueryEngine):
    """Corrects what another query engine answers: `AlignerQueryEngine(query_engine, aligner=aligner)`.

    It fits wherever a query engine does, as a `QueryEngineTool` too, and around any engine: one that asks sub-questions
    or databases, that routes, cites or retries. The response stays what it is, as with `AlignerSynthesizer`, which is
    the better place for an engine that has a synthesizer: it can show the Aligner the retrieved text. Where the engine
    is known to answer with retrieved text alone, that is no draft.

    Args:
        query_engine: Writes the drafts.
        **options: Fields of `CorrectionOptions`.
    """

    def __init__(self, query_engine: BaseQueryEngine, **options: Unpack[CorrectionArguments]) -> None:
        self._query_engine = query_engine
        self._options = CorrectionOptions(**options)
        super().__init__(callback_manager=query_engine.callback_manager)

    # Prompts are known by the same names as without an Aligner.

    def _get_prompts(self) -> PromptDictType:
        return self._query_engine._get_prompts()  # noqa: SLF001

    def _update_prompts(self, prompts: PromptDictType) -> None:
        self._query_engine._update_prompts(prompts)  # noqa: SLF001

    def _get_prompt_modules(self) -> PromptMixinType:
        return self._query_engine._get_prompt_modules()  # noqa: SLF001

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        corrector = Corrector.of(self._options, query_bundle.query_str)
        return self._corrected(self._query_engine.query(query_bundle), corrector)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        corrector = Corrector.of(self._options, query_bundle.query_str)
        return await self._acorrected(await self._query_engine.aquery(query_bundle), corrector)

    def retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """The nodes that the engine inside retrieves."""
        return self._query_engine.retrieve(query_bundle)

    async def aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """The nodes that the engine inside retrieves.

        Raises:
            NotImplementedError: It has no such method.
        """
        # LlamaIndex's base class does not know it; its engines with a retriever have it.
        aretrieve = getattr(self._query_engine, "aretrieve", None)
        if aretrieve is None:
            raise NotImplementedError(f"{type(self._query_engine).__name__} has no aretrieve; use aquery.")
        nodes: list[NodeWithScore] = await aretrieve(query_bundle)
        return nodes

    def synthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """What the engine inside answers from these nodes, corrected."""
        corrector = Corrector.of(self._options, query_bundle.query_str)
        return self._corrected(self._query_engine.synthesize(query_bundle, nodes, additional_source_nodes), corrector)

    async def asynthesize(
        self,
        query_bundle: QueryBundle,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """What the engine inside answers from these nodes, corrected."""
        corrector = Corrector.of(self._options, query_bundle.query_str)
        response = await self._query_engine.asynthesize(query_bundle, nodes, additional_source_nodes)
        return await self._acorrected(response, corrector)

    def _corrected(self, response: RESPONSE_TYPE, corrector: Corrector) -> RESPONSE_TYPE:
        engine = _answering(self._query_engine)
        if _only_retrieves(engine):
            return with_provenance(response, skipped("retrieved text"))
        return corrected(response, corrector, empty=_empty_response(engine))

    async def _acorrected(self, response: RESPONSE_TYPE, corrector: Corrector) -> RESPONSE_TYPE:
        engine = _answering(self._query_engine)
        if _only_retrieves(engine):
            return with_provenance(response, skipped("retrieved text"))
        return await acorrected(response, corrector, empty=_empty_response(engine))


def _answering(engine: BaseQueryEngine) -> BaseQueryEngine:
    # By their exact types: who derives from them may answer otherwise.
    while isinstance(engine, AlignerQueryEngine) or type(engine) in _PASSING_ON:
        engine = vars(engine)["_query_engine"]
    return engine


def _only_retrieves(engine: BaseQueryEngine) -> bool:
    return type(engine) in _RETRIEVING and writes_nothing(vars(engine)["_response_synthesizer"])


def _empty_response(engine: BaseQueryEngine) -> str:
    # An engine's synthesizer may say something of its own where nothing was retrieved.
    empty: str = getattr(getattr(engine, "_response_synthesizer", None), "_empty_response", EMPTY_RESPONSE)
    return empty
