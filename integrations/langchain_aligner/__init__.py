"""The Aligner in LangChain.

from langchain_aligner import AlignerRunnable

chain = prompt | llm | AlignerRunnable()
"""

from typing import TYPE_CHECKING, Any

from aligner_chains.errors import MissingDependencyError
from langchain_aligner.runnable import AlignerRunnable

if TYPE_CHECKING:
    from langchain_aligner.chat_model import AlignedChatModel
    from langchain_aligner.middleware import AlignerMiddleware

__all__ = ["AlignedChatModel", "AlignerMiddleware", "AlignerRunnable"]


def __getattr__(name: str) -> Any:
    # `prompt | llm | AlignerRunnable()` needs neither of these, and agents need `langchain` and `langgraph`.
    if name == "AlignedChatModel":
        from langchain_aligner.chat_model import AlignedChatModel

        return AlignedChatModel
    if name != "AlignerMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from langchain_aligner.middleware import AlignerMiddleware
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"AlignerMiddleware needs LangChain's agents: pip install langchain. {error}"
        ) from error
    return AlignerMiddleware
