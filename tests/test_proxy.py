"""Proxies that the environment names. The hostile server takes the part of one, and answers itself."""

import socket
from urllib.parse import urlsplit

import pytest
from cases import GOOD, QUERY, RUDE, Hostile
from hostile import HostileServer, page

from aligner_chains import Aligner
from aligner_chains.backends.proxy import proxy_for
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


@pytest.mark.parametrize("scheme", ["", "HTTP://"])
def test_a_proxy_may_be_named_without_its_scheme_or_with_it_in_capitals(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, scheme: str
):
    server = hostile()
    monkeypatch.setenv("HTTP_PROXY", server.url.replace("http://", scheme))
    assert Aligner.from_tgi(AWAY).correct(QUERY, RUDE).text == GOOD


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_reached_without_a_proxy(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch, host: str
):
    unused = proxy(hostile, monkeypatch, "HTTP_PROXY")
    assert Aligner.from_tgi(hostile().url.replace("127.0.0.1", host)).correct(QUERY, RUDE).text == GOOD
    assert not unused.requests


@pytest.mark.parametrize(
    "address", ["127.8.8.8", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "localhost.", "gpu.localhost"]
)
def test_a_loopback_address_has_no_proxy(monkeypatch: pytest.MonkeyPatch, address: str):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    assert proxy_for(urlsplit(f"http://{address}:8080")) is None


@pytest.mark.parametrize(
    ("no_proxy", "excepted", "others"),
    [
        ("10.0.0.0/8, 192.168.1.7", ["10.1.2.3:8080", "192.168.1.7"], ["11.1.2.3:8080", "192.168.1.8", "gpu.corp"]),
        ("[2001:db8::5]", ["[2001:db8::5]", "[2001:DB8:0::5]:8080"], ["[2001:db8::6]", "10.1.2.3"]),
        ("2001:db8::/32", ["[2001:db8::5]:8080"], ["[2001:db9::5]:8080"]),
        ("[2001:db8::5]:8080,gpu.corp:80", ["[2001:db8::5]:8080", "gpu.corp"], ["[2001:db8::5]", "gpu.corp:8080"]),
        ("localhost, *", ["gpu.corp", "10.1.2.3:8080", "[2001:db8::5]"], []),
        (".Corp", ["corp", "gpu.CORP:8080", "gpu.corp."], ["gpucorp", "corp.example"]),
        (" , .", [], ["gpu.corp", "10.1.2.3:8080", "[2001:db8::5]"]),
    ],
)
def test_no_proxy_names_servers_domains_and_networks(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, excepted: list[str], others: list[str]
):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert {server: proxy_for(urlsplit(f"http://{server}")) for server in excepted + others} == {
        **dict.fromkeys(excepted),
        **dict.fromkeys(others, "http://proxy.example:3128"),
    }


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
    server = proxy(hostile, monkeypatch, "HTTPS_PROXY", "me:secret@secret@")
    refused = rf"by the proxy '{server.url}' \(404 Not Found\)\. Look at HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or name"
    with pytest.raises(BackendConnectionError, match=refused) as caught:
        Aligner.from_tgi("https://aligner.example").correct(QUERY, RUDE)
    assert "secret" not in str(caught.value)
    assert {(request.method, request.path) for request in server.requests} == {("CONNECT", "aligner.example:443")}


def test_a_proxy_that_wants_a_password_is_named(hostile: Hostile, monkeypatch: pytest.MonkeyPatch):
    server = hostile(info=page(407))
    monkeypatch.setenv("HTTP_PROXY", server.url)
    refused = rf"by the proxy '{server.url}' \(407 Proxy Authentication Required\)\. Look at HTTP_PROXY"
    with pytest.raises(BackendConnectionError, match=refused):
        Aligner.from_tgi(AWAY).correct(QUERY, RUDE)


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(BackendConnectionError, match=r"by the proxy 'http://127\.0\.0\.1:9' .*Look at HTTP_PROXY"):
        Aligner.from_tgi(AWAY).correct(QUERY, RUDE)


@pytest.mark.parametrize("host", ["proxy:notaport", "proxy:99999", "", "a..b", "a" * 64])
@pytest.mark.parametrize("credentials", ["http://me:secret@", "me:secret@", "http://me:secret/secret@"])
def test_a_proxy_whose_address_is_none_is_refused_at_once_without_its_password(
    monkeypatch: pytest.MonkeyPatch, credentials: str, host: str
):
    monkeypatch.setenv("HTTP_PROXY", credentials + host)
    message = rf"the proxy 'http://{host}' for 'aligner\.example', which is not an HTTP proxy's address"
    with pytest.raises(ConfigurationError, match=message) as caught:
        Aligner.from_tgi(AWAY)
    assert "secret" not in f"{caught.value} {caught.value.__context__}"


def test_a_proxy_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://me:secret@127.0.0.1:1080")
    message = (
        r"the proxy 'socks5://127\.0\.0\.1:1080' for 'aligner\.example'.* Set HTTP_PROXY to one .*, or name .* NO_PROXY"
    )
    with pytest.raises(ConfigurationError, match=message):
        Aligner.from_tgi(AWAY)
