"""Whether a text can be sent to a model as it is, and what of an address can be shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from aligner_chains.errors import InvalidInputError, InvalidTypeError


def check_type(name: str, value: object) -> None:
    """Raises `InvalidTypeError` unless the value is a string."""
    if not isinstance(value, str):
        raise InvalidTypeError(f"The {name} must be a string, not {type(value).__name__}.")


def check_characters(name: str, text: str) -> None:
    """Raises `InvalidInputError` if the text holds what no server takes: NUL or a lone surrogate."""
    if "\0" in text:
        raise InvalidInputError(
            f"The {name} holds a NUL character at index {text.index(chr(0))}. Take it out: servers cut texts off there."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"The {name} holds the lone surrogate {text[error.start]!r} at index {error.start}, which is no "
            "character. It comes from text that was decoded wrongly; text.encode('utf-8', 'replace').decode() takes "
            "such pieces out."
        ) from error


def without_password(url: str) -> str:
    """The address without the user and password that may be in it, `http://user:password@host`.

    A password with a slash in it is what makes some addresses wrong: everything before the last @ may be of it.
    """
    return re.sub(r"^([a-z][a-z0-9+.-]*://)?.*@", r"\1", url, flags=re.I | re.S)


def is_http_address(url: str) -> bool:
    """Whether this is `http://` or `https://`, a host, a port that there can be, if any, and no @ after them."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # as sockets do, which fail where this does
        # An @ further on ends a password that holds a / ? or #, and what is before those is not the host.
        is_whole = "@" not in parts.path + parts.query + parts.fragment
        return parts.scheme in ("http", "https") and bool(host) and parts.port != 0 and is_whole
    except ValueError:
        return False
