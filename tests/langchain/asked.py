"""What a server was asked about."""

from __future__ import annotations

from hostile import HostileServer

QUESTION = "Who wrote Faust?"
INTRODUCTION = "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it more "


def questions(server: HostileServer) -> list[str]:
    """What the server was asked about, in order."""
    return [question_in(request.prompt) for request in server.generations]


def question_in(prompt: str) -> str:
    """The question in what the server was given."""
    return prompt.removeprefix(INTRODUCTION + "helpful and harmless: ").partition(" | ")[0]
