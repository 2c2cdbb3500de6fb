"""What goes with an Aligner's weights, and what happens where it does not."""

import json
import shutil
from pathlib import Path

import pytest
from cases import QUERY, RUDE, Hostile, assert_labelled
from hostile import reply, speak
from shapes import TGI_INFO

from aligner_chains import PROMPT_FORMATS, Aligner, Guard
from aligner_chains.errors import ModelLoadError, PromptFormatError
from aligner_chains.model_config import EMBEDDED_NAME, EMBEDDED_PATH, AlignerConfig, config_for_model, load_config

EMBEDDED_CONFIG = json.loads((EMBEDDED_PATH / "config.json").read_text())
(WEIGHTS,) = EMBEDDED_PATH.glob("*.safetensors")
CONFIG = AlignerConfig(PROMPT_FORMATS["aligner-2b"], Guard(min_confidence=0.7, reject_repetition=True), name="me/mine")


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A copy of the embedded model that knows nothing about itself."""
    folder = tmp_path / "mine"
    shutil.copytree(EMBEDDED_PATH, folder)
    (folder / "aligner_config.json").unlink()
    return folder


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_configuration_comes_back_as_it_was_saved(tmp_path: Path):
    CONFIG.save(tmp_path)
    assert load_config(tmp_path) == CONFIG
    assert config_for_model(str(tmp_path)) == CONFIG


def test_a_folder_without_one_has_none(tmp_path: Path):
    assert load_config(tmp_path) is None


def test_the_embedded_aligner_is_known_by_name_and_guarded():
    config = config_for_model(EMBEDDED_NAME)
    assert config.name == EMBEDDED_NAME
    assert config.guard.is_on


def test_a_format_that_the_user_names_leaves_the_guard_of_the_model_on():
    mine = PROMPT_FORMATS["aligner-2b"]
    config = config_for_model(EMBEDDED_NAME, mine)
    assert config.prompt_format is mine
    assert config.guard == config_for_model(EMBEDDED_NAME).guard


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"prompt_format": "aligner-8b"}', '{"prompt_format": "aligner-7b", "guard": {"x": 1}}']
)
def test_a_configuration_that_is_none_is_an_error_that_names_the_file(tmp_path: Path, content: str):
    path = tmp_path / "aligner_config.json"
    path.write_text(content)
    with pytest.raises(ModelLoadError, match=r"aligner_config\.json is not an Aligner's configuration"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "aligner-7b-v1.0"])
def test_a_path_where_there_is_nothing_is_an_error(tmp_path: Path, name: str):
    with pytest.raises(ModelLoadError, match=rf"{name}' is no folder\. Give a folder that holds config\.json"):
        Aligner.from_pretrained(tmp_path / name)
    with pytest.raises(ModelLoadError, match="is no folder"):
        Aligner.from_pretrained(f"./{name}", prompt_format="aligner-7b")


def test_a_folder_that_holds_no_model_is_an_error(tmp_path: Path):
    with pytest.raises(ModelLoadError, match=r"holds no model: it has no config\.json"):
        Aligner.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="holds no model"):
        Aligner.from_pretrained(str(tmp_path), prompt_format="aligner-7b")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{}"),
        ("config.json", "[]"),
        ("config.json", "not json"),
        ("config.json", json.dumps(EMBEDDED_CONFIG | {"num_hidden_layers": 99})),
        ("config.json", '{"model_type": "llama", "hidden_size": "wide"}'),
        (WEIGHTS.name, "not weights"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "not json"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_an_error_that_names_it(model_folder: Path, name: str, content: str):
    (model_folder / name).write_text(content)
    with pytest.raises(ModelLoadError, match=r"Cannot load a causal language model from .*mine'.* Give a folder"):
        Aligner.from_pretrained(model_folder, prompt_format="aligner-7b")


def test_a_hub_id_that_cannot_be_had_is_an_error():
    with pytest.raises(ModelLoadError, match="'nobody/aligner-7b-nothing'"):
        Aligner.from_pretrained("nobody/aligner-7b-nothing")


@pytest.mark.parametrize("dtype", ["float33", "nn"])
def test_an_unknown_dtype_is_an_error(dtype: str):
    with pytest.raises(ModelLoadError, match=f"no dtype '{dtype}'; use 'float32'"):
        Aligner.from_pretrained(EMBEDDED_PATH, dtype=dtype)


def test_an_unknown_device_is_an_error():
    with pytest.raises(ModelLoadError, match="Cannot load"):
        Aligner.from_pretrained(EMBEDDED_PATH, device="abacus")


def test_a_model_whose_format_nothing_tells_is_an_error_before_it_is_loaded(model_folder: Path):
    (model_folder / WEIGHTS.name).unlink()
    with pytest.raises(PromptFormatError, match=r"No prompt format is known for .*mine'.*prompt_format=, "):
        Aligner.from_pretrained(model_folder)


def test_a_folder_with_a_configuration_of_its_own_is_used_as_that_says(model_folder: Path):
    CONFIG.save(model_folder)
    aligner = Aligner.from_pretrained(model_folder, device="cpu", dtype="float32", on_failure="draft")
    correction = aligner.correct(QUERY, "Paris.", max_new_tokens=20)
    assert not isinstance(correction.error, PromptFormatError)
    assert "'me/mine'" in repr(aligner)


def test_a_server_whose_model_is_unknown_is_an_error_before_any_draft_is_sent(hostile: Hostile):
    server = hostile(info=reply(200, {**TGI_INFO, "model_id": "meta-llama/Llama-3"}))
    with pytest.raises(PromptFormatError, match=r"'meta-llama/Llama-3'.*prompt_format="):
        Aligner.from_tgi(server.url).correct(QUERY, RUDE)
    assert not server.generations
    assert Aligner.from_tgi(server.url, prompt_format="aligner-7b").correct(QUERY, RUDE).outcome == "corrected"
    assert_labelled(lambda policy: Aligner.from_tgi(server.url, on_failure=policy), PromptFormatError)


def test_a_server_of_the_embedded_aligner_is_guarded_as_it_is(hostile: Hostile):
    info = reply(200, {**TGI_INFO, "model_id": EMBEDDED_NAME})
    server = hostile(for_ever=speak("Nonsense", logprob=-3.0), info=info)
    assert Aligner.from_tgi(server.url).correct(QUERY, RUDE).outcome == "skipped"
    assert Aligner.from_tgi(server.url, guard=Guard()).correct(QUERY, RUDE).text == "Nonsense"
