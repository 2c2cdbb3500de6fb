"""Proxies that the environment names. The hostile server takes the part of one, and answers itself."""

import socket

import pytest
from cases import GOOD, QUERY, RUDE, Hostile
from hostile import HostileServer

from aligner_chains import Aligner
from aligner_chains.errors import BackendConnectionError, ConfigurationError

AWAY = "http://aligner.example:8080"


def proxy(hostile: Hostile, monkeypatch: pytest.MonkeyPatch, variable: str, credentials: str = "") -> HostileServer:
    server = hostile()
    monkeypatch.setenv(variable, server.url.replace("://", f"://{credentials}"))
    return server


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_in_the_environment_is_used(hostile: Hostile, monkeypatch: pytest.MonkeyPatch, variable: str):
    server = proxy(hostile, monkeypatch, variable, "me:secret@")
    aligner = Aligner.from_tgi(AWAY)
    assert [aligner.correct(QUERY, RUDE).text for _ in range(2)] == [GOOD, GOOD]
    assert "".join(map(str, aligner.stream(QUERY, RUDE))) == GOOD
    assert {request.headers["host"] for request in server.requests} == {"aligner.example:8080"}
    assert {request.headers["proxy-authorization"] for request in server.requests} == {"Basic bWU6c2VjcmV0"}


def test_a_proxy_may_be_named_without_its_scheme(hostile: Hostile, monkeypatch: pytest.MonkeyPatch):
    server = hostile()
    monkeypatch.setenv("HTTP_PROXY", server.url.removeprefix("http://"))
    assert Aligner.from_tgi(AWAY).correct(QUERY, RUDE).text == GOOD


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_reached_without_a_proxy(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, host: str
):
    unused = proxy(hostile, monkeypatch, "HTTP_PROXY")
    assert Aligner.from_tgi(hostile().url.replace("127.0.0.1", host)).correct(QUERY, RUDE).text == GOOD
    assert not unused.requests


@pytest.mark.parametrize("exception", ["other.org, aligner.example", ".example", "aligner.example:8080", "*"])
def test_a_server_in_no_proxy_is_reached_without_a_proxy(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, exception: str
):
    def getaddrinfo(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    unused = proxy(hostile, monkeypatch, "HTTP_PROXY")
    monkeypatch.setenv("NO_PROXY", exception)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(BackendConnectionError, match=r"not known\]\)\. Is it running"):
        Aligner.from_tgi(AWAY).correct(QUERY, RUDE)
    assert not unused.requests


def test_a_proxy_that_refuses_the_way_is_named_without_its_password(hostile: Hostile, monkeypatch: pytest.MonkeyPatch):
    server = proxy(hostile, monkeypatch, "HTTPS_PROXY", "me:secret@")
    refused = rf"by the proxy '{server.url}' \(404 Not Found\)\. Look at HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or name"
    with pytest.raises(BackendConnectionError, match=refused) as caught:
        Aligner.from_tgi("https://aligner.example").correct(QUERY, RUDE)
    assert "secret" not in str(caught.value)
    assert {(request.method, request.path) for request in server.requests} == {("CONNECT", "aligner.example:443")}


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(BackendConnectionError, match=r"by the proxy 'http://127\.0\.0\.1:9' .*Look at HTTP_PROXY"):
        Aligner.from_tgi(AWAY).correct(QUERY, RUDE)


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://me:secret@127.0.0.1:1080")
    message = (
        r"the proxy 'socks5://127\.0\.0\.1:1080' for 'aligner\.example'.* Set HTTP_PROXY to one, or name .* NO_PROXY"
    )
    with pytest.raises(ConfigurationError, match=message):
        Aligner.from_tgi(AWAY)
