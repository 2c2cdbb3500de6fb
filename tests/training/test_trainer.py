"""Training runs: they learn, can be interrupted, and leave a model that others load."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from aligner_chains.data import Triple, write_triples
from aligner_chains.decoding.causal_model import CausalModel
from aligner_chains.decoding.int4 import is_int4, rounded
from aligner_chains.errors import ConfigurationError, DataError
from aligner_chains.guard import Guard
from aligner_chains.model_config import AlignerConfig, load_config
from aligner_chains.training import trainer
from aligner_chains.training.batches import PROMPT_FORMAT, Encoder
from aligner_chains.training.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from aligner_chains.training.config import TrainingConfig
from aligner_chains.training.copy_circuit import NanoShape
from aligner_chains.training.edit_tagger import EditTagger
from aligner_chains.training.export import average_models, export_checkpoint, load_model
from aligner_chains.training.streams import JsonlStream
from aligner_chains.training.trainer import train

#: It takes a minute or two, and a compiler that not every machine has.
COMPILES = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler"),
    # torch's compiler imports what torch deprecates, and looks for gradients where there are none.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]
SMALL = NanoShape(width=64, layers=2, heads=2, feed_forward=64, context=256)
TRIPLES = [
    Triple(f"What costs {price}?", f"The {thing} costs {price}, you fool.", f"The {thing} costs {price}.")
    for price in range(10, 40)
    for thing in ("kettle", "ladder", "bicycle", "lamp")
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "triples.jsonl"
    write_triples(path, TRIPLES)
    return path


def small_run(out: Path, data: Path, **options: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {"tokens": 5000, "batch_tokens": 400, "log_every": 4, "checkpoint_every": 4}
    return TrainingConfig(out, data=data, shape=SMALL, **{**defaults, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return train(small_run(tmp_path_factory.mktemp("trained"), data)).path


@pytest.fixture
def dies_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a run die right after the checkpoint of a step."""

    def arrange(step: int) -> None:
        def save_and_die(out: Path, checkpoint: Checkpoint) -> None:
            save_checkpoint(out, checkpoint)
            if checkpoint["step"] == step:
                raise KeyboardInterrupt

        monkeypatch.setattr(trainer, "save_checkpoint", save_and_die)

    return arrange


def curve(run: Path) -> list[dict[str, str]]:
    with (run / "curve.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    out = tmp_path_factory.mktemp("learned")
    return train(small_run(out, data, tokens=16_000, checkpoint_every=1000, muon_lr=0.04, lr=5e-3)).path


def test_the_loss_falls(learned: Path) -> None:
    points = curve(learned)
    assert float(points[-1]["loss"]) < float(points[0]["loss"]) / 2


@pytest.mark.parametrize(
    "options",
    [pytest.param({"bf16": True}, id="bf16"), pytest.param({"torch_compile": True}, id="compiled", marks=COMPILES)],
)
def test_what_makes_it_faster_teaches_the_same_weights_nearly(
    trained: Path, tmp_path: Path, data: Path, options: dict[str, Any]
) -> None:
    train(small_run(tmp_path, data, **options))
    exact, quick = (load_checkpoint(run) for run in (trained, tmp_path))
    assert exact is not None
    assert quick is not None
    for name, weight in exact["model"].items():
        other = quick["model"][name]
        assert other.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(weight.flatten(), other.flatten(), dim=0) > 0.9
    assert any(not torch.equal(weight, quick["model"][name]) for name, weight in exact["model"].items())


def test_a_resumed_run_ends_with_the_same_weights(trained: Path, tmp_path: Path, data: Path, dies_after: Any) -> None:
    dies_after(8)
    with pytest.raises(KeyboardInterrupt):
        train(small_run(tmp_path, data))
    train(small_run(tmp_path, data, resume=True))
    straight, resumed = (load_checkpoint(run) for run in (trained, tmp_path))
    assert straight is not None
    assert resumed is not None
    assert (straight["step"], straight["tokens"]) == (resumed["step"], resumed["tokens"])
    assert straight["step"] > 10
    for name, weight in straight["model"].items():
        assert torch.equal(weight, resumed["model"][name]), name


def test_a_resumed_run_has_one_curve(trained: Path, tmp_path: Path, data: Path, dies_after: Any) -> None:
    dies_after(8)
    with pytest.raises(KeyboardInterrupt):
        train(small_run(tmp_path, data))
    with (tmp_path / "curve.csv").open("a", encoding="utf-8") as file:
        file.write("12,1,9.9,0.1,1,1\n")  # trained, but not saved
    train(small_run(tmp_path, data, resume=True))
    steps = [point["step"] for point in curve(tmp_path)]
    assert steps == [point["step"] for point in curve(trained)]
    assert "9.9" not in (point["loss"] for point in curve(tmp_path))


def test_two_processes_train_one_model(tmp_path: Path, data: Path) -> None:
    result = train(small_run(tmp_path, data, processes=2, tokens=1500))
    assert result.tokens >= 1500
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint is not None
    assert len(checkpoint["processes"]) == 2
    AutoModelForCausalLM.from_pretrained(tmp_path)


def test_the_model_is_there_in_half_precision(trained: Path) -> None:
    weights = load_file(trained / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert (trained / "generation_config.json").is_file()


def test_the_configuration_has_the_names_of_old_and_new_transformers(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == SMALL.rope_theta
    assert config["torch_dtype"] == config["dtype"] == "float16"
    assert config["tie_word_embeddings"] is True


def test_the_model_writes_with_its_tokenizer(trained: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(trained), AutoTokenizer.from_pretrained(trained)
    written = model.generate(**tokenizer("What costs 12?", return_tensors="pt"), max_new_tokens=3)
    assert written.shape[1] > len(tokenizer("What costs 12?")["input_ids"])


def test_a_checkpoint_can_be_exported(trained: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trained)
    assert checkpoint is not None
    assert export_checkpoint(trained, tmp_path) == checkpoint["step"]
    exported, final = (load_file(folder / "model.safetensors") for folder in (tmp_path, trained))
    assert all(torch.equal(exported[name], final[name]) for name in final)
    AutoTokenizer.from_pretrained(tmp_path)


def test_the_middle_of_the_model_knows_which_sentences_change(learned: Path) -> None:
    checkpoint = load_checkpoint(learned)
    assert checkpoint is not None
    model, tokenizer = load_model(learned), AutoTokenizer.from_pretrained(learned)
    tagger = EditTagger(model)
    tagger.load_state_dict(checkpoint["tagger"])
    loss = 0.0
    for example in map(Encoder(tokenizer).encode, TRIPLES):
        states = model(torch.tensor([example.ids]), output_hidden_states=True).hidden_states[tagger.layer][0]
        place, edited = example.edited[-1]
        loss += tagger.loss(states[[place]], torch.tensor([float(edited)])).item()
    assert loss / len(TRIPLES) < 0.9 * math.log(2)  # the loss of not knowing


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return train(small_run(tmp_path_factory.mktemp("int4"), data, int4=True)).path


def test_the_last_third_of_a_run_for_four_bits_is_trained_rounded(four_bits: Path, trained: Path) -> None:
    losses, plain = ([float(point["loss"]) for point in curve(run)] for run in (four_bits, trained))
    assert losses[:2] == plain[:2]
    assert losses[-1] != plain[-1]


def test_a_run_for_four_bits_leaves_what_it_trained(four_bits: Path) -> None:
    checkpoint = load_checkpoint(four_bits)
    assert checkpoint is not None
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(four_bits), dtype=torch.float32)
    model.load_state_dict(checkpoint["model"])
    with rounded(model):
        read = dict(load_model(four_bits).named_parameters())
        assert all(torch.equal(read[name], weight) for name, weight in model.named_parameters() if weight.dim() > 1)
    assert not (four_bits / "model.safetensors").exists()
    written = CausalModel.load(four_bits, device="cpu").model.lm_head.weight
    assert torch.equal(written, read["model.embed_tokens.weight"])


def test_of_two_exports_the_last_is_there(four_bits: Path, trained: Path, tmp_path: Path) -> None:
    for run, other in ((four_bits, trained), (trained, four_bits)):
        export_checkpoint(other, tmp_path)
        export_checkpoint(run, tmp_path)
        assert torch.equal(load_model(tmp_path).lm_head.weight, load_model(run).lm_head.weight)
        assert is_int4(tmp_path) == is_int4(run)


def test_the_mean_of_one_model_of_four_bits_is_that_model_for_everybody(four_bits: Path, tmp_path: Path) -> None:
    average_models([four_bits], tmp_path)
    mean = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(mean.lm_head.weight, load_model(four_bits).lm_head.weight, rtol=1e-3, atol=1e-6)


def test_a_model_that_was_only_cut_is_warmed_up(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, cut := tmp_path / "cut", ignore=shutil.ignore_patterns("aligner_config.json"))
    starts = [trainer._curriculum(TrainingConfig(tmp_path, start=start)) for start in (cut, trained)]
    assert [start.warm_up > 0 for start in starts] == [True, False]


def test_models_are_averaged(learned: Path, trained: Path, tmp_path: Path) -> None:
    average_models([learned, trained], tmp_path)
    one, other, mean = (load_file(folder / "model.safetensors") for folder in (learned, trained, tmp_path))
    for name, weight in mean.items():
        torch.testing.assert_close(weight.float(), (one[name].float() + other[name].float()) / 2, rtol=1e-3, atol=1e-6)
    vocabularies = [AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (learned, tmp_path)]
    assert vocabularies[0] == vocabularies[1]


def test_models_that_have_no_mean_are_an_error(trained: Path, tmp_path: Path, data: Path) -> None:
    wider = small_run(tmp_path / "wider", data, tokens=1)
    train(replace(wider, shape=replace(SMALL, feed_forward=96)))
    with pytest.raises(ConfigurationError, match=r"wider.*another shape"):
        average_models([trained, wider.out], tmp_path / "mean")
    shutil.copytree(trained, other := tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["e"], vocabulary["a"] = vocabulary["a"], vocabulary["e"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"tokenizer in .*other"):
        average_models([trained, other], tmp_path / "mean")
    with pytest.raises(ConfigurationError, match="holds no causal language model"):
        average_models([trained, data.parent], tmp_path / "mean")
    (other / "tokenizer.json").unlink()
    with pytest.raises(ConfigurationError, match=r"other.*holds no tokenizer"):
        average_models([trained, other], tmp_path / "mean")
    with pytest.raises(ConfigurationError, match=r"other.*is one of the models"):
        average_models([other, trained], tmp_path / "wider" / ".." / "other")


def test_a_guard_that_is_there_stays(trained: Path, tmp_path: Path) -> None:
    AlignerConfig(PROMPT_FORMAT, Guard(min_sequence_confidence=0.5), "mine").save(tmp_path)
    export_checkpoint(trained, tmp_path)
    config = load_config(tmp_path)
    assert config is not None
    assert (config.name, config.guard.min_sequence_confidence) == ("mine", 0.5)


def test_an_existing_model_is_trained_further(trained: Path, tmp_path: Path, data: Path) -> None:
    train(small_run(tmp_path, data, base=trained, tokens=2000, lr=1e-3))
    before, after = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path))
    assert before.keys() == after.keys()
    assert not torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    ids = [AutoTokenizer.from_pretrained(folder)("The lamp costs 12.")["input_ids"] for folder in (trained, tmp_path)]
    assert ids[0] == ids[1]


def test_an_embedded_aligner_goes_on_where_another_run_ended(learned: Path, tmp_path: Path, data: Path) -> None:
    train(small_run(tmp_path, data, start=learned, tokens=1))
    assert float(curve(tmp_path)[0]["loss"]) < float(curve(learned)[0]["loss"]) / 2
    before, after = (load_checkpoint(run) for run in (learned, tmp_path))
    assert before is not None
    assert after is not None
    assert len(before["optimizers"]) == len(after["optimizers"]) == 3
    assert (tmp_path / "tokenizer.json").read_bytes() == (learned / "tokenizer.json").read_bytes()


def test_adamw_alone_trains_an_embedded_aligner(tmp_path: Path, data: Path) -> None:
    train(small_run(tmp_path, data, tokens=16_000, checkpoint_every=1000, muon_lr=None, lr=5e-3))
    points = curve(tmp_path)
    assert float(points[-1]["loss"]) < float(points[0]["loss"]) / 2


def test_a_run_has_one_beginning(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="base and start are given"):
        TrainingConfig(tmp_path, base=tmp_path, start=tmp_path)


def test_another_run_s_folder_is_not_overwritten(trained: Path, data: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds a checkpoint at step"):
        train(small_run(trained, data))


def test_a_run_is_not_resumed_with_other_data(trained: Path, data: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"data was '.*triples\.jsonl' and is 'other\.jsonl'"):
        train(small_run(trained, Path("other.jsonl"), resume=True))
    with pytest.raises(
        ConfigurationError, match=r"data was '.*' and is 'None'; stream was 'NoneType' and is 'JsonlStream'"
    ):
        train(TrainingConfig(trained, stream=JsonlStream(data), shape=SMALL, batch_tokens=400, resume=True))


def test_a_run_without_a_checkpoint_says_that_it_begins_anew(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small_run(tmp_path, data, tokens=1, resume=True))
    assert f"no checkpoint in {str(tmp_path)!r}, so the run begins anew" in capsys.readouterr().out


def test_a_run_is_not_resumed_with_other_settings(trained: Path, data: Path) -> None:
    with pytest.raises(ConfigurationError, match="seed was 0 and is 1"):
        train(small_run(trained, data, seed=1, resume=True))


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(DataError, match=r"empty\.jsonl.*no triples"):
        train(small_run(tmp_path / "out", empty))


def test_a_base_without_tokenizer_is_an_error(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no tokenizer"):
        train(small_run(tmp_path / "out", data, base=tmp_path))


def test_a_base_without_model_is_an_error(tmp_path: Path, trained: Path, data: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((trained / "tokenizer.json").read_bytes())
    with pytest.raises(ConfigurationError, match="holds no"):
        train(small_run(tmp_path / "out", data, base=tmp_path))


def test_a_damaged_checkpoint_is_an_error(tmp_path: Path, data: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match=r"checkpoint\.pt cannot be read"):
        train(small_run(tmp_path, data, resume=True))


def test_there_is_one_source_of_triples(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConfigurationError, match="data and real are given"):
        TrainingConfig(tmp_path, data=data, real=data)


@pytest.mark.parametrize("name", ["tokens", "processes", "batch_tokens", "lr", "muon_lr", "log_every"])
def test_numbers_have_to_be_positive(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be above 0, not 0"):
        TrainingConfig(tmp_path, **{name: 0})
