"""Text of chat messages, between blocks that are not text."""

from __future__ import annotations

from llama_index.core.base.llms.types import ChatMessage, ContentBlock, TextBlock


def with_text(message: ChatMessage, text: str) -> ChatMessage:
    """The same message with another text.

    Blocks that are not text (thinking, images, citations) stay where they are; of several texts the first takes it all.

    Args:
        message: A message with text.
        text: What to put in its place.
    """
    blocks: list[ContentBlock] = []
    is_placed = False
    for block in message.blocks:
        if not isinstance(block, TextBlock):
            blocks.append(block)
        elif not is_placed:
            blocks.append(TextBlock(text=text))
            is_placed = True
    return message.model_copy(update={"blocks": blocks})
