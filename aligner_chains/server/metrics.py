"""What happens on the server, counted: TGI's names, so that its dashboards work."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aligner_chains.errors import MissingDependencyError
from aligner_chains.server.refusals import RequestError
from aligner_chains.server.validation import Lengths

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
except ImportError as error:
    raise MissingDependencyError("The server needs prometheus-client: pip install 'aligner-chains[serve]'.") from error

_DURATIONS = tuple(0.0001 * 1.5**step for step in range(1, 36))  # seconds
_LENGTH_STEPS = 20
# prometheus_client appends `_total` to the names of counters; TGI's have no such ending.
_TOTAL = re.compile(r"(?m)^((?:# (?:HELP|TYPE) )?tgi_\w+?)_total\b")


class Metrics:
    """The counts of one server.

    Args:
        lengths: The server's limits of length, which are the histograms' ranges.
    """

    def __init__(self, lengths: Lengths) -> None:
        self._registry = CollectorRegistry()
        self._count = self._counter("tgi_request_count", "Requests that arrived.")
        self._success = self._counter("tgi_request_success", "Requests that were answered.")
        self._failure = Counter(
            "tgi_request_failure",
            "Requests that were not answered, by reason; `cancelled` ones were given up by their client.",
            ["err"],
            registry=self._registry,
        )
        self._duration = self._seconds("tgi_request_duration", "From a request's arrival to its answer.")
        self.queue_duration = self._seconds("tgi_request_queue_duration", "Spent waiting for the model.")
        self.inference_duration = self._seconds("tgi_request_inference_duration", "Spent in the model.")
        self.input_length = self._tokens("tgi_request_input_length", "Tokens of a prompt.", lengths.max_input_tokens)
        self.generated_tokens = self._tokens(
            "tgi_request_generated_tokens", "Tokens of an answer.", lengths.max_total_tokens
        )
        self.queue_size = Gauge("tgi_queue_size", "Prompts that wait for the model.", registry=self._registry)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts one request, which succeeds, fails or is cancelled as this block does."""
        self._count.inc()
        arrived = time.perf_counter()
        try:
            yield
        except RequestError as error:
            self._failure.labels(err=error.error_type).inc()
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self._failure.labels(err="cancelled").inc()
            raise
        self._success.inc()
        self._duration.observe(time.perf_counter() - arrived)

    def exposition(self) -> str:
        """All counts, in Prometheus' text format."""
        return _TOTAL.sub(r"\1", generate_latest(self._registry).decode())

    def _counter(self, name: str, description: str) -> Counter:
        return Counter(name, description, registry=self._registry)

    def _seconds(self, name: str, description: str) -> Histogram:
        return Histogram(name, description, buckets=_DURATIONS, registry=self._registry)

    def _tokens(self, name: str, description: str, most: int) -> Histogram:
        buckets = tuple(most * step / _LENGTH_STEPS for step in range(1, _LENGTH_STEPS + 1))
        return Histogram(name, description, buckets=buckets, registry=self._registry)
