"""The tree of errors: as drawn, catchable as builtins, fit for other processes."""

import inspect
import pickle
import re

import pytest

from aligner_chains import AlignerError, Correction, errors
from aligner_chains.errors import (
    BackendConnectionError,
    BackendError,
    ContextLengthError,
    CorrectionsFailedError,
    InvalidInputError,
    OverloadedError,
    StreamInterruptedError,
)

CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, BaseException) and kind.__module__ == errors.__name__
}


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        if match := re.match(r"(?P<indent>[│├└─ ]*)(?P<name>\w*Error)( \((?P<builtin>\w+)\))?", line):
            path[len(match["indent"]) // 4 :] = [match["name"]]
            drawn[match["name"]] = {path[-2] if len(path) > 1 else "Exception", match["builtin"]} - {None}
    assert drawn == {name: {base.__name__ for base in kind.__bases__} for name, kind in CLASSES.items()}


def test_errors_are_what_users_already_catch():
    with pytest.raises(ConnectionError):
        raise BackendConnectionError("gone")
    with pytest.raises(ValueError, match="empty"):
        raise InvalidInputError("empty")


CORRECTION = Correction("t", "d", "q", "corrected")
MADE_FROM_MORE = [
    ContextLengthError("too long", prompt_tokens=5, limit=4),
    StreamInterruptedError("broke off", sent="half"),
    OverloadedError("busy", status=429, retry_after=2.0),
    CorrectionsFailedError([CORRECTION, None], {1: InvalidInputError("empty")}),
]


@pytest.mark.parametrize("error", MADE_FROM_MORE, ids=lambda error: type(error).__name__)
def test_errors_made_from_more_than_a_message_cross_processes(error: AlignerError):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__.keys() == error.__dict__.keys()


@pytest.mark.parametrize("kind", [kind for kind in CLASSES.values() if kind not in map(type, MADE_FROM_MORE)])
def test_every_error_crosses_processes(kind: type[AlignerError]):
    error = kind("what went wrong")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, str(copy)) == (kind, ("what went wrong",), str(error))


@pytest.mark.parametrize("kind", [kind for kind in CLASSES.values() if issubclass(kind, BackendError)])
def test_every_error_of_a_server_says_what_to_do(kind: type[BackendError]):
    assert str(kind("It hung up.")) == f"It hung up. {kind.advice}"


def test_a_labelled_correction_crosses_processes_with_its_error():
    correction = Correction("d", "d", "q", "failed", error=ContextLengthError("long", prompt_tokens=5, limit=4))
    assert pickle.loads(pickle.dumps(correction)).error.prompt_tokens == 5


def test_many_failures_name_the_first_and_keep_the_others():
    error = CorrectionsFailedError(
        [CORRECTION, None, None], {1: InvalidInputError("The query is empty."), 2: OverloadedError("busy")}
    )
    assert str(error).startswith("2 of 3 corrections failed; the first, at index 1: The query is empty. ")
    assert 'on_failure="draft"' in str(error)
    assert error.corrections == [CORRECTION, None, None]
