"""Settings from the environment."""

import re
import warnings
from collections.abc import Callable
from dataclasses import fields

import pytest
from cases import QUERY, RUDE, Hostile
from hostile import page

from aligner_chains import Aligner, Feedback, Settings
from aligner_chains.backends import from_settings
from aligner_chains.errors import AlignerError, ConfigurationError

ALL = {
    "ALIGNER_URL": ("http://gpu:8080", "http://gpu:8080"),
    "ALIGNER_API_KEY": (" sk-secret\n", "sk-secret"),
    "ALIGNER_MODEL": ("aligner-7b", "aligner-7b"),
    "ALIGNER_PROMPT": ("aligner-2b", "aligner-2b"),
    "ALIGNER_FEEDBACK": ("empathetic", "empathetic"),
    "ALIGNER_ON_FAILURE": ("refuse", "refuse"),
    "ALIGNER_TIMEOUT": ("2.5", 2.5),
    "ALIGNER_MIN_CONFIDENCE": ("0.8", 0.8),
    "ALIGNER_MAX_NEW_TOKENS": ("256", 256),
    "ALIGNER_MAX_CONCURRENCY": ("8", 8),
}


def test_every_variable_is_read():
    settings = Settings.from_env({name: text for name, (text, _) in ALL.items()})
    assert settings == Settings(**{name.removeprefix("ALIGNER_").lower(): value for name, (_, value) in ALL.items()})
    assert len(fields(Settings)) == len(ALL)


@pytest.mark.parametrize("name", ALL)
def test_a_blank_variable_is_an_unset_one(name: str):
    assert Settings.from_env({name: "  "}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALIGNER_ON_FAILURE", "explode"),
        ("ALIGNER_TIMEOUT", "soon"),
        ("ALIGNER_TIMEOUT", "0"),
        ("ALIGNER_TIMEOUT", "nan"),
        ("ALIGNER_MIN_CONFIDENCE", "2"),
        ("ALIGNER_MAX_NEW_TOKENS", "-3"),
        ("ALIGNER_MAX_NEW_TOKENS", "1.5"),
        ("ALIGNER_MAX_CONCURRENCY", "0"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error_with_variable_and_value(name: str, value: str):
    with pytest.raises(ConfigurationError, match=f"{name}.*{re.escape(repr(value))}"):
        Settings.from_env({name: value})


def test_an_unknown_variable_is_a_warning_with_the_nearest():
    with pytest.warns(UserWarning, match=r"ALIGNER_TIMOUT is not known: did you mean ALIGNER_TIMEOUT\?"):
        assert Settings.from_env({"ALIGNER_TIMOUT": "3"}) == Settings()
    with pytest.warns(UserWarning, match="is not known: known are ALIGNER_URL, "):
        Settings.from_env({"ALIGNER_SOMETHING_ELSE_ENTIRELY": "3"})


def test_variables_of_others_are_none_of_ours():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Settings.from_env({"PATH": "/bin", "MY_ALIGNER_URL": "x"}) == Settings()


def test_the_key_is_not_shown():
    shown = repr(Settings(url="http://user:secret@gpu", api_key="sk-secret"))
    assert "secret" not in shown
    assert shown.startswith("Settings(url='http://gpu', api_key=")
    assert "api_key='***'" in shown


def test_an_aligner_without_arguments_is_the_one_in_the_environment(hostile: Hostile, monkeypatch: pytest.MonkeyPatch):
    server = hostile()
    monkeypatch.setenv("ALIGNER_URL", server.url)
    monkeypatch.setenv("ALIGNER_API_KEY", "sk-secret")
    monkeypatch.setenv("ALIGNER_FEEDBACK", "empathetic")
    monkeypatch.setenv("ALIGNER_MAX_NEW_TOKENS", "77")
    assert Aligner().correct(QUERY, RUDE).outcome == "corrected"
    (request,) = server.generations
    assert request.path == "/generate"
    assert request.headers["authorization"] == "Bearer sk-secret"
    assert "make it more empathetic: " in request.prompt
    assert request.body["parameters"]["max_new_tokens"] == 77


def test_an_address_that_ends_in_v1_is_an_openai_server(hostile: Hostile, monkeypatch: pytest.MonkeyPatch):
    server = hostile()
    monkeypatch.setenv("ALIGNER_URL", server.url + "/v1/")
    monkeypatch.setenv("ALIGNER_MODEL", "mine")
    monkeypatch.setenv("ALIGNER_PROMPT", "aligner-2b")
    Aligner().correct(QUERY, RUDE)
    (request,) = server.generations
    assert (request.path, request.body["model"]) == ("/v1/completions", "mine")
    assert "##Question: " in request.prompt


def test_arguments_come_before_the_environment(hostile: Hostile, monkeypatch: pytest.MonkeyPatch):
    server = hostile()
    monkeypatch.setenv("ALIGNER_URL", server.url)
    monkeypatch.setenv("ALIGNER_FEEDBACK", "empathetic")
    monkeypatch.setenv("ALIGNER_PROMPT", "aligner-2b")
    Aligner(feedback=Feedback.CONCISE, prompt_format="aligner-7b").correct(QUERY, RUDE)
    assert "make it more concise: " in server.generations[0].prompt


def test_a_model_at_a_tgi_server_makes_no_sense(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALIGNER_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ALIGNER_MODEL", "mine")
    with pytest.raises(ConfigurationError, match=r"does not end in /v1\. For TGI leave the model out: ALIGNER_MODEL"):
        Aligner()


def test_the_environment_is_not_asked_where_a_backend_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALIGNER_ON_FAILURE", "explode")
    Aligner.from_tgi("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"on_failure": "explode"}, "one of 'raise', 'draft', 'refuse', not 'explode'"),
        ({"on_failure": ""}, "one of 'raise', 'draft', 'refuse', not ''"),
        ({"timeout": 0}, "timeout must be a number above zero, not 0"),
        ({"timeout": "60"}, "timeout must be a number above zero, not '60'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number above zero, not 0"),
        ({"max_new_tokens": 0.5}, "max_new_tokens must be a whole number above zero, not 0.5"),
        ({"max_concurrency": 0}, "max_concurrency must be a whole number above zero, not 0"),
        ({"max_concurrency": "8"}, "max_concurrency must be a whole number above zero, not '8'"),
        ({"min_confidence": 1.5}, "min_confidence is a probability from 0 to 1, not 1.5"),
        ({"feedback": 3}, "not int"),
        ({"feedback": ""}, "Feedback needs an objective"),
        ({"prompt_format": "aligner-8b"}, "no prompt format 'aligner-8b'"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_an_error_when_the_aligner_is_made(options: dict[str, object], fault: str):
    with pytest.raises(AlignerError, match=re.escape(fault)):
        Aligner.from_tgi("http://127.0.0.1:1", **options)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"on_failure": "explode"}, "on_failure must be one of"),
        ({"timeout": "60"}, "timeout must be a number"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number"),
    ],
)
def test_an_argument_of_the_wrong_kind_for_one_draft_is_an_error_under_every_policy(
    options: dict[str, object], fault: str
):
    aligner = Aligner.from_tgi("http://127.0.0.1:1", on_failure="refuse")
    with pytest.raises(ConfigurationError, match=fault):
        aligner.correct(QUERY, RUDE, **options)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gpu-1:8080",
        "ftp://gpu-1",
        "http://",
        "http://[::1",
        "http://gpu:port",
        "http://gpu:99999",
        "http://a..b",
        None,
        3,
    ],
)
@pytest.mark.parametrize("make", [Aligner.from_tgi, Aligner.from_openai])
def test_what_is_no_address_is_an_error_when_the_aligner_is_made(make: Callable[..., Aligner], url: object):
    with pytest.raises(ConfigurationError, match=r"is not a server's address\. Give one like 'http://"):
        make(url)


def test_an_aligner_shows_where_it_runs_and_no_secret():
    tgi = Aligner.from_tgi("http://127.0.0.1:1", api_key="sk-secret", feedback="kind")
    openai = Aligner.from_openai("http://127.0.0.1:1/v1", api_key="sk-secret", model="mine")
    assert repr(tgi) == "Aligner(TgiBackend('http://127.0.0.1:1'), feedback='kind', on_failure='raise')"
    assert "OpenAIBackend('http://127.0.0.1:1/v1', model='mine')" in repr(openai)


def test_a_password_in_the_address_is_sent_and_not_shown(hostile: Hostile):
    server = hostile(info=page())
    aligner = Aligner.from_tgi(server.url.replace("//", "//user:pass%20word@"))
    with pytest.raises(AlignerError) as caught:
        aligner.correct(QUERY, RUDE)
    assert server.requests[0].headers["authorization"] == "Basic dXNlcjpwYXNzIHdvcmQ="
    assert server.url in str(caught.value)
    assert "pass" not in f"{aligner!r} {caught.value} {aligner.description}"
    with pytest.raises(ConfigurationError) as caught:
        Aligner.from_tgi("http://user:pass-word@gpu:port")
    assert "pass" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:se/cret@gpu:8080",
        "http://user:se?cret@gpu:8080",
        "http://user:se#cret@gpu:8080",
        "http://user:80/secret@gpu:8080",
        "http://user:s@e/cret@gpu:8080",
        "ftp://user:secret@gpu:8080",
        "user:secret@gpu:8080",
        "user:secret://secret@gpu:8080",
        "//user:secret@gpu:8080",
        "http:/user:secret@gpu:8080",
    ],
)
def test_a_password_that_makes_an_address_wrong_is_not_shown(url: str):
    with pytest.raises(ConfigurationError, match=r"'(http://|ftp://)?gpu:8080' is not a .* write / as %2F") as caught:
        Aligner.from_tgi(url)
    shown = f"{caught.value} {Settings(url=url)!r}"
    assert not re.search("user|se.cret|secret|cret", shown), shown


def test_a_key_that_no_header_can_carry_is_refused_and_not_shown():
    with pytest.raises(ConfigurationError, match="api_key holds a line break") as caught:
        Aligner.from_tgi("http://127.0.0.1:1", api_key="sk-secret\n")
    assert "secret" not in str(caught.value)


def test_the_embedded_aligner_is_what_there_is_without_settings_and_says_so_once(caplog: pytest.LogCaptureFixture):
    from_settings._warn_of_the_embedded_one.cache_clear()
    for aligner in (Aligner(), Aligner()):
        assert "LocalBackend('aligner-chains/aligner-nano')" in repr(aligner)
    (record,) = caplog.records
    assert record.getMessage().startswith("Neither ALIGNER_URL nor ALIGNER_MODEL is set")
