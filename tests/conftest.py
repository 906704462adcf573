"""Fixtures shared by every room: a tokenizer and a causal model small enough to build in a test."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# A busy machine is no failure, and a fresh clone tries the same cases as any other; the nightly run tries new ones.
settings.register_profile("test", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("nightly", deadline=None, print_blob=True)
settings.load_profile("nightly" if "KINJECT_TRUST_CASES" in os.environ else "test")

# Files of whole runs go first, the longest before all: one that begins last would leave the other workers without work.
LONGEST = (
    "tests/distributed/",
    "tests/trust/",
    "tests/reproduction/test_runner.py",
    "tests/recipes/",
    "tests/test_examples.py",
    "tests/hub/",
    "tests/commands/",
)
READINGS = {"paper", "exact_match", "f1", "n"}  # of every score in `results.json`
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(
    chat_template: str | None = CHATML, extra_tokens: tuple[str, ...] = ("<reserved_0>",)
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: 256 bytes plus special tokens, so any Unicode text is encodable."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|bos|>", eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *extra_tokens]})
    tokenizer.chat_template = chat_template
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    """A random two-layer Llama over ``tokenizer``'s vocabulary, fp32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def run_recipe(base: Path | str, output_dir: Path, objective: str = "masked", **options: Any) -> dict[str, Any]:
    """Two epochs of ``objective`` on four people, as a recipe runs them; ``options`` are those of its command line.

    One that is None is left out.
    """
    from kinject.commands.recipe import train

    settings = {
        "model_name_or_path": base,
        "output_dir": output_dir,
        "documents": "fictional:name_description",
        "size": 4,
        "num_train_epochs": 2,
        "evaluations": 2,
        "max_new_tokens": 8,
        "retention": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        **options,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    return train(objective, [part for name, value in given.items() for part in (f"--{name}", str(value))])


def nf4() -> dict[str, Any]:
    """How the recipe loads a model with `--load_in_4bit true`."""
    import torch
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="float32")
    return {"quantization_config": quantization, "device_map": {"": "cpu"}, "dtype": torch.float32}


@pytest.hookimpl(tryfirst=True)  # what shuffles tests comes after
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((at for at, path in enumerate(LONGEST) if item.nodeid.startswith(path)), len(LONGEST))

    items.sort(key=place)


@pytest.fixture(autouse=True, scope="module")
def libraries_are_no_garbage() -> None:
    """Every training begins with a full collection, which takes far longer than a tiny step over all that is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return build_model(tiny_tokenizer)
