"""Models in this process: of any architecture, on whatever there is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import GOOD, QUERY, RUDE
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from aligner_chains import PROMPT_FORMATS, Aligner, Guard
from aligner_chains.backends.base import GenerationRequest
from aligner_chains.backends.local import LocalBackend
from aligner_chains.decoding import causal_model
from aligner_chains.model_config import EMBEDDED_PATH
from aligner_chains.prompts import Prompt

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}"
)


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """The folder of a GPT-2 with random weights: learnt positions, no rotary ones, another attention than Llama's."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_PATH)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    return tmp_path


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> torch.Tensor:
    if isinstance(prompt, str):
        return tokenizer(prompt, return_tensors="pt")["input_ids"]
    text = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]


@pytest.mark.parametrize("name", ["aligner-7b", "instruct"])
async def test_another_architecture_writes_what_transformers_writes(gpt2: Path, name: str):
    prompt = PROMPT_FORMATS[name].render("Who wrote Faust?", "Goethe wrote it.")
    backend = LocalBackend.from_pretrained(gpt2, device="cpu", dtype="float32")
    generation = await backend.generate(GenerationRequest(prompt, 12))

    tokenizer, model = AutoTokenizer.from_pretrained(gpt2), AutoModelForCausalLM.from_pretrained(gpt2)
    ids = prompt_ids(tokenizer, prompt)
    written = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    assert generation.text == tokenizer.decode(written, skip_special_tokens=True)
    assert generation.usage is not None
    assert (generation.usage.input_tokens, generation.usage.output_tokens) == (ids.shape[1], len(written))
    assert (await backend.info()).max_total_tokens == 256


@pytest.mark.parametrize(
    "own",
    [
        {"repetition_penalty": 3.0},
        {"no_repeat_ngram_size": 2},
        {"num_beams": 3},
        {"min_new_tokens": 60},
        {"suppress_tokens": list(range(3, 400))},
    ],
    ids=lambda own: next(iter(own)),
)
def test_how_a_model_would_rather_write_does_not_change_its_corrections(tmp_path: Path, own: dict[str, Any]):
    folder = shutil.copytree(EMBEDDED_PATH, tmp_path / "model")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    aligner = Aligner.from_pretrained(folder, device="cpu", guard=Guard())
    assert aligner.correct(QUERY, RUDE).text == GOOD


@pytest.mark.parametrize(
    ("there", "device", "dtype"),
    [
        ({"cuda", "bf16", "mps"}, "cuda", torch.bfloat16),
        ({"cuda"}, "cuda", torch.float16),
        ({"mps"}, "mps", torch.float16),
        (set(), "cpu", torch.float32),
    ],
)
def test_a_model_goes_where_it_is_fastest_in_what_suits_there(
    monkeypatch: pytest.MonkeyPatch, there: set[str], device: str, dtype: torch.dtype
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: "bf16" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    assert causal_model._best_device() == device
    assert causal_model._dtype_for(device) == dtype
