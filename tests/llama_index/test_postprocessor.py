"""`AlignerPostprocessor`: nodes come out as copies with corrected text; all else of them stays."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from hostile import HostileServer, meet, refuse, speak
from listening import Listener
from llama_index.core import MockEmbedding, QueryBundle, VectorStoreIndex
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    NodeRelationship,
    NodeWithScore,
    RelatedNodeInfo,
    TextNode,
)
from llama_index_instrumentation.events.span import SpanDropEvent
from pydantic import ValidationError

from aligner_chains import Aligner, Feedback
from aligner_chains.backends.local import LocalBackend
from aligner_chains.errors import GenerationError
from llama_index_aligner import AlignerPostprocessor, aligner_options

QUERY = "Who wrote Faust?"
DRAFT = "Goethe wrote Faust, you idiot."
CORRECTED = "Goethe wrote Faust."

Way: TypeAlias = Callable[..., list[NodeWithScore]]


def _async(postprocessor: AlignerPostprocessor, *args: Any, **kwargs: Any) -> list[NodeWithScore]:
    return asyncio.run(postprocessor.apostprocess_nodes(*args, **kwargs))


@pytest.fixture(params=[AlignerPostprocessor.postprocess_nodes, _async], ids=["sync", "async"])
def process(request: pytest.FixtureRequest) -> Way:
    return request.param


@pytest.fixture
def postprocessor(aligner: Aligner) -> AlignerPostprocessor:
    return AlignerPostprocessor(aligner=aligner)


def a_node(text: str = DRAFT, score: float | None = 0.7, **metadata: Any) -> NodeWithScore:
    return NodeWithScore(
        node=TextNode(
            text=text,
            id_="node-1",
            metadata={"file": "faust.txt", **metadata},
            excluded_llm_metadata_keys=["file"],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc-1")},
            embedding=[0.5],
        ),
        score=score,
    )


def texts(nodes: list[NodeWithScore]) -> list[str]:
    return [found.node.get_content() for found in nodes]


def test_a_node(process: Way, postprocessor: AlignerPostprocessor) -> None:
    given = a_node()
    (found,) = process(postprocessor, [given], query_str=QUERY)
    told = found.node.metadata.pop("aligner")
    assert told.pop("latency") > 0
    assert told == {
        "outcome": "corrected",
        "model": "aligner/aligner-7b-v1.0",
        "edit_ratio": 0.2727,
        "confidence": 0.99,
        "usage": {"input_tokens": 11, "output_tokens": 3},
    }
    expected = a_node(CORRECTED)
    expected.node.excluded_llm_metadata_keys.append("aligner")
    expected.node.excluded_embed_metadata_keys.append("aligner")
    assert found == expected
    assert given == a_node()


def test_what_is_changed_in_a_copy_stays_there(process: Way, postprocessor: AlignerPostprocessor) -> None:
    given = a_node()
    (found,) = process(postprocessor, [given], query_str=QUERY)
    for part in (found.node.metadata, found.node.relationships, found.node.excluded_llm_metadata_keys):
        part.clear()
    assert given == a_node()


def test_neither_prompts_nor_embeddings_see_the_provenance(process: Way, postprocessor: AlignerPostprocessor) -> None:
    (found,) = process(postprocessor, [a_node()], query_str=QUERY)
    assert found.node.get_content(MetadataMode.LLM) == CORRECTED
    assert found.node.get_content(MetadataMode.EMBED) == f"file: faust.txt\n\n{CORRECTED}"
    assert "outcome" in found.node.get_content(MetadataMode.ALL)


def test_the_query_and_the_bare_text_are_what_the_aligner_reads(
    process: Way, postprocessor: AlignerPostprocessor, server: HostileServer
) -> None:
    process(postprocessor, [a_node()], query_bundle=QueryBundle(QUERY))
    assert f": {QUERY} | {DRAFT} ASSISTANT:" in server.generations[0].prompt


def test_without_a_query(process: Way, postprocessor: AlignerPostprocessor, server: HostileServer) -> None:
    for options in ({}, {"query_str": " "}):
        assert process(postprocessor, [a_node()], **options) == [a_node()]
    assert server.requests == []


def test_nodes_without_text(process: Way, postprocessor: AlignerPostprocessor, server: HostileServer) -> None:
    nodes = [a_node(" "), NodeWithScore(node=ImageNode(image_url="https://x/y.png")), NodeWithScore(node=Node())]
    assert process(postprocessor, nodes, query_str=QUERY) == nodes
    assert process(postprocessor, [], query_str=QUERY) == []
    assert server.requests == []


def test_every_kind_of_node_with_text(process: Way, postprocessor: AlignerPostprocessor) -> None:
    class Unique:
        def __deepcopy__(self, memo: object) -> Any:
            raise AssertionError("what a node points to is not the postprocessor's to copy")

    behind = Unique()
    nodes = [
        TextNode(text=DRAFT),
        IndexNode(text=DRAFT, index_id="1", obj=behind),
        ImageNode(text=DRAFT, image_url="https://x/y.png"),
        Node(text_resource={"text": DRAFT}),
    ]
    found = process(postprocessor, [NodeWithScore(node=node) for node in nodes], query_str=QUERY)
    assert texts(found) == [CORRECTED] * 4
    assert found[1].node.obj is behind


def test_a_good_text_stays(process: Way, postprocessor: AlignerPostprocessor) -> None:
    (found,) = process(postprocessor, [a_node(CORRECTED)], query_str=QUERY)
    assert found.node.get_content() == CORRECTED
    assert found.node.metadata["aligner"]["outcome"] == "unchanged"


def test_only_nodes_over_a_score(process: Way, aligner: Aligner) -> None:
    postprocessor = AlignerPostprocessor(aligner=aligner, min_score=0.5)
    nodes = [a_node(score=score) for score in (0.5, 0.4, None)]
    assert texts(process(postprocessor, nodes, query_str=QUERY)) == [CORRECTED, DRAFT, DRAFT]


def test_only_nodes_with_some_metadata(process: Way, aligner: Aligner) -> None:
    postprocessor = AlignerPostprocessor(aligner=aligner, metadata_filter=lambda metadata: metadata["rude"])
    nodes = [a_node(rude=True), a_node(rude=False)]
    assert texts(process(postprocessor, nodes, query_str=QUERY)) == [CORRECTED, DRAFT]


@pytest.mark.parametrize(("policy", "left"), [("draft", ["One.", DRAFT]), ("refuse", ["One."])])
def test_a_node_that_fails(
    policy: Any, left: list[str], process: Way, hostile: Callable[..., HostileServer], told: Listener
) -> None:
    server = hostile(speak(), refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner:
        postprocessor = AlignerPostprocessor(aligner=aligner, on_failure=policy, num_workers=1)
        found = process(postprocessor, [a_node("One."), a_node()], query_str=QUERY)
    assert texts(found) == left
    assert [end.outcome for end in told.ends] == ["unchanged", "failed"]
    if policy == "draft":
        assert found[1].node.metadata["aligner"]["error"]["type"] == "GenerationError"


def test_a_failure_raises_by_default(process: Way, hostile: Callable[..., HostileServer]) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner, pytest.raises(GenerationError, match="on fire"):
        process(AlignerPostprocessor(aligner=aligner), [a_node()], query_str=QUERY)


def test_nodes_are_corrected_at_once_but_no_more_than_the_workers(
    process: Way, hostile: Callable[..., HostileServer]
) -> None:
    server = hostile(for_ever=meet(3))
    with Aligner.from_tgi(server.url) as aligner:
        postprocessor = AlignerPostprocessor(aligner=aligner, num_workers=3)
        found = process(postprocessor, [a_node(f"{number}, you idiot.") for number in range(6)], query_str=QUERY)
    assert texts(found) == [f"{number}." for number in range(6)]
    assert server.most_at_once == 3


def test_feedback_for_all_calls_and_for_one(process: Way, aligner: Aligner, server: HostileServer) -> None:
    postprocessor = AlignerPostprocessor(aligner=aligner, feedback="empathetic")
    with aligner_options(feedback=Feedback.CONCISE):
        process(postprocessor, [a_node()], query_str=QUERY)
    process(postprocessor, [a_node()], query_str=QUERY)
    assert ["more concise" in request.prompt for request in server.generations] == [True, False]
    assert "more empathetic" in server.generations[1].prompt


def test_blocks_inside_blocks(hostile: Callable[..., HostileServer]) -> None:
    server = hostile(refuse(424, "generation"), refuse(424, "generation"))
    with Aligner.from_tgi(server.url) as aligner:
        postprocessor = AlignerPostprocessor(aligner=aligner)
        with aligner_options(on_failure="draft", max_new_tokens=7):
            with aligner_options(on_failure="refuse"):
                assert postprocessor.postprocess_nodes([a_node()], query_str=QUERY) == []
            assert texts(postprocessor.postprocess_nodes([a_node()], query_str=QUERY)) == [DRAFT]
    assert [request.body["parameters"]["max_new_tokens"] for request in server.generations] == [7, 7]


def test_the_draft_is_kept_on_demand(process: Way, aligner: Aligner) -> None:
    (found,) = process(AlignerPostprocessor(aligner=aligner, keep_draft=True), [a_node()], query_str=QUERY)
    assert found.node.metadata["aligner"]["draft"] == DRAFT


def test_the_index_is_not_touched(process: Way, postprocessor: AlignerPostprocessor) -> None:
    retriever = VectorStoreIndex([a_node().node], embed_model=MockEmbedding(embed_dim=1)).as_retriever()
    assert texts(process(postprocessor, retriever.retrieve(QUERY), query_str=QUERY)) == [CORRECTED]
    assert texts(retriever.retrieve(QUERY)) == [DRAFT]


@pytest.mark.parametrize("name", ["_postprocess_nodes", "_apostprocess_nodes"])
def test_events_and_spans(name: str, postprocessor: AlignerPostprocessor, told: Listener) -> None:
    process = _async if name == "_apostprocess_nodes" else AlignerPostprocessor.postprocess_nodes
    process(postprocessor, [a_node()], query_str=QUERY)
    ((start,), (end,)) = told.starts, told.ends
    assert (start.query, start.draft) == (end.query, end.draft) == (QUERY, DRAFT)
    assert (end.correction, end.outcome, end.model, end.error) == (
        CORRECTED,
        "corrected",
        "aligner/aligner-7b-v1.0",
        None,
    )
    assert end.latency > 0
    assert start.span_id == end.span_id
    names = [event.model_dump()["class_name"] for event in (start, end)]  # by which LlamaIndex's observers tell them
    assert names == ["AlignerCorrectionStartEvent", "AlignerCorrectionEndEvent"]
    assert told.path(start.span_id) == [f"AlignerPostprocessor.{name}", "Aligner.correct"]


def test_a_failure_in_the_events(process: Way, hostile: Callable[..., HostileServer], told: Listener) -> None:
    server = hostile(refuse(424, "generation", "the GPU is on fire"))
    with Aligner.from_tgi(server.url) as aligner, pytest.raises(GenerationError):
        process(AlignerPostprocessor(aligner=aligner), [a_node()], query_str=QUERY)
    ((start,), (end,)) = told.starts, told.ends
    assert (end.span_id, end.query, end.draft) == (start.span_id, QUERY, DRAFT)
    assert (end.correction, end.outcome, type(end.error)) == (None, None, GenerationError)
    assert end.latency > 0
    assert end.model_dump(mode="json")["error"] == {"type": "GenerationError", "message": str(end.error)}
    assert next(span.id_.partition("-")[0] for span in told.spans.dropped_spans) == "Aligner.correct"
    assert end.span_id in [event.span_id for event in told.of(SpanDropEvent)]


def test_it_is_saved_without_the_key(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNER_API_KEY", "top-secret")
    made = Aligner.from_tgi(server.url, api_key="top-secret", timeout=7)
    postprocessor = AlignerPostprocessor(aligner=made, feedback=Feedback("kind"), num_workers=2)
    postprocessor.postprocess_nodes([a_node()], query_str=QUERY)  # what holds connections cannot be pickled
    for saved, load in (
        (pickle.dumps(postprocessor), pickle.loads),
        (postprocessor.to_json().encode(), AlignerPostprocessor.from_json),
    ):
        assert b"top-secret" not in saved
        loaded = load(saved)
        assert loaded.aligner.description == made.description
        assert loaded.to_dict() == postprocessor.to_dict()
        with loaded.aligner:
            assert texts(loaded.postprocess_nodes([a_node()], query_str=QUERY)) == [CORRECTED]
    made.close()
    assert {request.headers["authorization"] for request in server.generations} == {"Bearer top-secret"}
    assert postprocessor.to_dict()["class_name"] == "AlignerPostprocessor"


def test_an_aligner_with_a_backend_of_ones_own_is_not_saved(embedded_backend: LocalBackend) -> None:
    postprocessor = AlignerPostprocessor(aligner=Aligner(embedded_backend))
    with pytest.raises(pickle.PicklingError, match="was given a backend"):
        pickle.dumps(postprocessor)
    with pytest.raises(ValidationError, match="aligner"):
        AlignerPostprocessor.from_dict(postprocessor.to_dict())


def test_without_an_aligner_it_is_the_one_in_the_environment(
    process: Way, server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGNER_URL", server.url)
    assert texts(process(AlignerPostprocessor(), [a_node()], query_str=QUERY)) == [CORRECTED]


def test_what_is_no_option() -> None:
    with pytest.raises(ValidationError, match="feedbak"):
        AlignerPostprocessor(feedbak="empathetic")
    with pytest.raises(ValidationError, match="on_failure"):
        AlignerPostprocessor(on_failure="explode")
