"""Server-sent events, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_chains.backends.sse import EventReader

DATA = st.text().map(lambda text: text.replace("\r", "").replace("\n", ""))


def parse(*chunks: bytes) -> list[str]:
    reader = EventReader()
    return [data for chunk in (*filter(None, chunks), b"") for data in reader.read(chunk)]


@given(st.data(), st.lists(DATA), st.sampled_from(["\n", "\r\n"]))
def test_any_chunking_gives_the_same_events(data: st.DataObject, texts: list[str], newline: str):
    sent = "".join(f": alive{newline}data: {text}{newline}{newline}" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    chunks = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    assert parse(*chunks) == texts


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_newlines_end_lines(separator: str):
    assert parse(f"data:a{separator}b\n\n".encode()) == [f"a{separator}b"]


def test_lines_of_one_event_are_joined():
    assert parse(b"event: token\nid: 3\ndata: a\ndata:b\n\n") == ["a\nb"]


def test_comments_and_empty_lines_are_no_events():
    assert parse(b":\n\n: ping\n\n\n\n") == []


def test_the_last_event_counts_without_an_empty_line():
    assert parse(b"data: a\n\ndata: b") == ["a", "b"]
    assert parse(b"data: a\n\ndata: b\r\n") == ["a", "b"]


def test_bytes_that_are_no_utf_8_are_an_error():
    with pytest.raises(UnicodeDecodeError):
        parse(b"data: \xff\n\n")
