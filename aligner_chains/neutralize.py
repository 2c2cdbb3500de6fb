"""Text is data: special tokens and role markers inside a query or a draft, neutralised on the way to the model.

Servers parse `</s>` or `<|im_end|>` inside a prompt as the real token, and no switch turns that off. So each such
piece is broken with an invisible character on the way in, and that character is taken out of what comes back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from aligner_chains.errors import InvalidInputError

# The word joiner prints nothing and breaks no line. The others are for texts that hold it already.
_SEPARATORS = "\u2060\u2063\u2064\u200b\u200c" + "".join(map(chr, range(0xE000, 0xF8FF)))

# What tokenizers in the field treat as one token, and markdown images, whose address a vision server would fetch.
_SPECIAL = (
    r"<\|[^|<>\s]{1,64}\|>"  # <|im_end|>, <|eot_id|>, ...
    r"|<\uff5c[^\uff5c<>]{1,64}\uff5c>"  # the same in fullwidth bars
    r"|</?(?:s|pad|unk|bos|eos|mask|cls|sep|think|tool_call|tool_response|image|audio|video|im_start|im_end|endoftext"
    r"|fim_\w{1,24}|\w{1,24}_of_\w{1,24}|extra_id_\d{1,4}|unused\d{1,4}|reserved_special_token_\d{1,4})>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG|PAD|UNK|CLS|SEP|MASK|BOS|EOS|gMASK)\]"
    r"|<</?SYS>>"
    r"|!(?=\[[^\[\]]{0,1000}\]\()"
)


@dataclass(frozen=True, slots=True)
class NeutralTexts:
    """Texts without anything that a tokenizer or a template could take for its own.

    Attributes:
        texts: The texts, in the order given.
        separator: The character that was put in, and occurs nowhere in the originals; `None` if nothing had to be done.
    """

    texts: tuple[str, ...]
    separator: str | None

    def restore(self, text: str) -> str:
        """What the model wrote, with copied pieces as they were in the originals."""
        return text.replace(self.separator, "") if self.separator else text


def neutralize(texts: Iterable[str], markers: Iterable[str] = ()) -> NeutralTexts:
    """Breaks special tokens and markers in the texts.

    Args:
        texts: A query, a draft, an objective.
        markers: Pieces to break besides the special tokens known in the field: the template's own markers and the
            tokenizer's added tokens.

    Raises:
        InvalidInputError: The texts leave no character to break a piece with.
    """
    originals = tuple(texts)
    pattern = _pattern(tuple(markers))
    if not any(map(pattern.search, originals)):
        return NeutralTexts(originals, separator=None)
    separator = next((mark for mark in _SEPARATORS if not any(mark in text for text in originals)), None)
    if separator is None:
        raise InvalidInputError(
            f"Query and draft hold all {len(_SEPARATORS)} characters that could break the special tokens in them. Take "
            f"one out: {_SEPARATORS[0]!r}, say."
        )
    return NeutralTexts(tuple(pattern.sub(rf"\1{separator}", text) for text in originals), separator)


@lru_cache(maxsize=64)
def _pattern(markers: tuple[str, ...]) -> re.Pattern[str]:
    # A piece's first character is what matches, so that pieces which overlap are all found.
    known = sorted({marker.strip() for marker in markers} - {""})
    return re.compile(f"(?=(?:{'|'.join([*map(re.escape, known), _SPECIAL])}))(.)", re.DOTALL)
