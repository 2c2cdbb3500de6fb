"""Reads streams of server-sent events."""

from __future__ import annotations

import json
from typing import Any

import aiohttp


async def events_of(response: aiohttp.ClientResponse) -> list[Any]:
    """The events of a whole stream; `[DONE]` as it is."""
    assert response.status == 200
    assert response.content_type == "text/event-stream"
    data = [line[6:] for line in (await response.read()).decode().split("\n") if line.startswith("data: ")]
    return [text if text == "[DONE]" else json.loads(text) for text in data]
