"""Whatever a server answers: a correction, or an error of ours, and never an exception of anyone else's."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import shapes
from cases import QUERY, RUDE, Connect, over_openai, over_tgi
from hostile import Call, HostileServer, reply, say
from hypothesis import given
from hypothesis import strategies as st

from aligner_chains import AlignerError, Guard

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ANSWER = shapes.Answer(["One", " two"])


def changed(data: st.DataObject, content: Any) -> Any:
    """The content with anything in one place of it."""
    if not content or not isinstance(content, dict | list) or data.draw(st.integers(0, 4)) == 0:
        return data.draw(ANYTHING)
    if isinstance(content, dict):
        key = data.draw(st.sampled_from(sorted(content)))
        return {**content, key: changed(data, content[key])}
    index = data.draw(st.integers(0, len(content) - 1))
    return [*content[:index], changed(data, content[index]), *content[index + 1 :]]


class Answering(HostileServer):
    """A server that answers what it was last given."""

    def __init__(self) -> None:
        super().__init__(for_ever=self.answer)
        self.whole: object = None
        self.events: list[object] = []

    async def answer(self, call: Call) -> None:
        if call.request.is_streamed:
            await say(*map(shapes.event, self.events))(call)
        else:
            await reply(200, self.whole)(call)


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    with Answering() as server:
        yield server


@pytest.mark.parametrize(("connect", "path"), [(over_tgi, "/generate"), (over_openai, "/v1/completions")])
@given(data=st.data())
def test_anything_is_a_correction_or_an_error_of_ours(
    server: Answering, connect: Connect, path: str, data: st.DataObject
):
    request = shapes.Request("POST", path, {}, {"logprobs": 1})
    events = [json.loads(event[5:]) for event in shapes.events(request, ANSWER) if b"[DONE]" not in event]
    server.whole = changed(data, shapes.whole(request, ANSWER))
    server.events = [changed(data, event) if data.draw(st.booleans()) else event for event in events]
    guard = data.draw(st.sampled_from([Guard(), Guard(min_confidence=0.1, min_sequence_confidence=0.1)]))
    aligner = connect(server, guard=guard, timeout=0.2)
    with suppress(AlignerError):
        aligner.correct(QUERY, RUDE)
    with suppress(AlignerError):
        list(aligner.stream(QUERY, RUDE))


def test_the_unchanged_answer_is_a_correction(server: Answering):
    request = shapes.Request("POST", "/generate", {}, {})
    server.whole = shapes.whole(request, ANSWER)
    assert over_tgi(server).correct(QUERY, RUDE).text == "One two"
