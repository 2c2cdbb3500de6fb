"""The Aligner in LlamaIndex.

from llama_index_aligner import AlignerSynthesizer

query_engine = index.as_query_engine(response_synthesizer=AlignerSynthesizer(get_response_synthesizer()))
"""

from aligner_chains.errors import MissingDependencyError

try:
    from llama_index_aligner.agents import AlignerFunctionAgent, AlignerReActAgent
    from llama_index_aligner.chat_engines import (
        AlignerChatEngine,
        AlignerCondensePlusContextChatEngine,
        AlignerContextChatEngine,
    )
    from llama_index_aligner.events import AlignerCorrectionEndEvent, AlignerCorrectionStartEvent
    from llama_index_aligner.llm import AlignerLLM
    from llama_index_aligner.options import aligner_options
    from llama_index_aligner.postprocessor import AlignerPostprocessor
    from llama_index_aligner.query_engine import AlignerQueryEngine
    from llama_index_aligner.synthesizer import AlignerSynthesizer
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"llama_index_aligner needs LlamaIndex: pip install 'aligner-chains[llama-index]'. {error}"
    ) from error

__all__ = [
    "AlignerChatEngine",
    "AlignerCondensePlusContextChatEngine",
    "AlignerContextChatEngine",
    "AlignerCorrectionEndEvent",
    "AlignerCorrectionStartEvent",
    "AlignerFunctionAgent",
    "AlignerLLM",
    "AlignerPostprocessor",
    "AlignerQueryEngine",
    "AlignerReActAgent",
    "AlignerSynthesizer",
    "aligner_options",
]
