"""The ways in which a request can fail, with TGI's status codes and error types."""

from __future__ import annotations

from http import HTTPStatus


class RequestError(Exception):
    """A request cannot be answered. It ends as the response, or as an event in a stream, and never leaves the server.

    Attributes:
        status: The HTTP status; also inside a stream, whose own status is 200.
        error_type: TGI's name for it.
    """

    def __init__(self, message: str, *, status: HTTPStatus, error_type: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type

    @property
    def body(self) -> dict[str, str]:
        """TGI's JSON for it."""
        return {"error": str(self), "error_type": self.error_type}


def invalid(reason: str) -> RequestError:
    """The request asks for something that this server does not do."""
    return RequestError(
        f"Input validation error: {reason}", status=HTTPStatus.UNPROCESSABLE_ENTITY, error_type="validation"
    )


def overloaded() -> RequestError:
    """All places are taken."""
    return RequestError("Model is overloaded", status=HTTPStatus.TOO_MANY_REQUESTS, error_type="overloaded")


def generation_failed(reason: str) -> RequestError:
    """The model failed."""
    return RequestError(
        f"Request failed during generation: {reason}", status=HTTPStatus.FAILED_DEPENDENCY, error_type="generation"
    )


def unhealthy() -> RequestError:
    """The model does not answer any more."""
    return RequestError("unhealthy", status=HTTPStatus.SERVICE_UNAVAILABLE, error_type="healthcheck")
