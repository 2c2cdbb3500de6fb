"""`AlignerPostprocessor`: the Aligner between a retriever and what reads its nodes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from pydantic import Field

from aligner_chains import portal
from aligner_chains.concurrency import map_ordered
from aligner_chains.correction import Correction
from aligner_chains.errors import ConfigurationError
from llama_index_aligner.corrector import METADATA_KEY, Corrector, dispatcher
from llama_index_aligner.options import CorrectionOptions


class AlignerPostprocessor(CorrectionOptions, BaseNodePostprocessor):
    """Corrects the text of retrieved nodes: `index.as_query_engine(node_postprocessors=[AlignerPostprocessor()])`.

    A node comes out as a copy with the same id, score, relationships and metadata. What became of its text is in
    `metadata["aligner"]`, which neither prompts nor embeddings see. Without a query, and where a node has no text, the
    nodes pass as they are.

    `on_failure` holds for each node by itself: `"draft"` keeps a node as it is, `"refuse"` leaves it out.
    """

    min_score: float | None = Field(
        default=None, description="The least score of a node that is corrected; one without a score is not, then."
    )
    metadata_filter: Callable[[dict[str, Any]], bool] | None = Field(
        default=None, exclude=True, description="Says of a node's metadata whether its text is corrected."
    )
    num_workers: int = Field(default=8, gt=0, description="How many nodes are corrected at once.")

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised form."""
        return "AlignerPostprocessor"

    def __getstate__(self) -> dict[Any, Any]:
        pickle.dumps(self.metadata_filter)  # LlamaIndex would leave it out, and all nodes would be corrected
        return super().__getstate__()

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """The postprocessor as values, for `from_dict`; `to_json` is made of it.

        Raises:
            ConfigurationError: It has a `metadata_filter`, which is no value: without it all nodes would be corrected.
        """
        if self.metadata_filter is not None:
            raise ConfigurationError(
                f"metadata_filter={self.metadata_filter!r} cannot be saved as a value. Pickle the postprocessor, or "
                'save model_copy(update={"metadata_filter": None}) and give the filter to from_dict again.'
            )
        return super().to_dict(**kwargs)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        corrector = self._corrector(query_bundle)
        return portal.run(lambda: self._corrected(corrector, nodes))

    @dispatcher.span  # unlike its sibling it has no span by itself
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return await self._corrected(self._corrector(query_bundle), nodes)

    def _corrector(self, query_bundle: QueryBundle | None) -> Corrector:
        return Corrector.of(self, query_bundle.query_str if query_bundle is not None else "")

    async def _corrected(self, corrector: Corrector, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        if not corrector.query.strip():
            return nodes

        async def correct(found: NodeWithScore) -> NodeWithScore | None:
            draft = found.node.get_content(MetadataMode.NONE)
            if not draft.strip() or not self._concerns(found):
                return found
            correction = await corrector.acorrect(draft)
            if correction.outcome == "failed" and correction.changed:
                return None  # a refusal is nothing to answer from
            return NodeWithScore(node=_with_correction(found.node, correction, corrector), score=found.score)

        async with aclosing(map_ordered(correct, nodes, limit=self.num_workers)) as corrected:
            return [node async for node in corrected if node is not None]

    def _concerns(self, found: NodeWithScore) -> bool:
        if self.min_score is not None and (found.score is None or found.score < self.min_score):
            return False
        return self.metadata_filter is None or self.metadata_filter(found.node.metadata)


def _with_correction(node: BaseNode, correction: Correction, corrector: Corrector) -> BaseNode:
    # Not a deep copy: the object behind an IndexNode may be a whole query engine.
    copy = node.model_copy(
        update={
            "metadata": {**node.metadata, METADATA_KEY: corrector.provenance(correction)},
            "relationships": dict(node.relationships),
            "excluded_llm_metadata_keys": [*node.excluded_llm_metadata_keys, METADATA_KEY],
            "excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, METADATA_KEY],
        }
    )
    if correction.changed:
        copy.set_content(correction.text)
    return copy
