"""What the weights of a model are called, read from its files without building it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from kinject.errors import HubError
from kinject.models.loading import tokenizer_and_config
from kinject.models.names import require_named, weights_of
from tests.conftest import build_tokenizer
from tests.models.architectures import ARCHITECTURES, random_model


def dimensions(model: Any) -> dict[str, int]:
    return {name: weight.dim() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_are_called_in_files_as_in_memory(name: str, tmp_path: Path) -> None:
    model = random_model(name, build_tokenizer())
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 1
    found = weights_of(str(tmp_path))
    assert found is not None
    named = {weight: len(shape) for weight, shape in found.items() if weight != "embed_out.weight"}
    assert named == dimensions(model)


@pytest.mark.parametrize("name", ["qwen3_moe", "glm4_moe"])
def test_of_a_mixture_whose_files_name_each_expert_nothing_is_claimed(name: str, tmp_path: Path) -> None:
    random_model(name, build_tokenizer()).save_pretrained(tmp_path)
    assert weights_of(str(tmp_path)) is None


def test_of_names_without_their_first_part_nothing_is_claimed(tmp_path: Path) -> None:
    random_model("gpt2", build_tokenizer()).transformer.save_pretrained(tmp_path)
    assert weights_of(str(tmp_path)) is None


@pytest.mark.smollm2
def test_the_embedded_model_is_a_llama_of_thirty_layers() -> None:
    found = tokenizer_and_config("smollm2-135m")
    weights = weights_of("smollm2-135m")
    assert found is not None and weights is not None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(found[1])
    assert {weight: len(shape) for weight, shape in weights.items()} == dimensions(model)


def test_a_hub_that_is_not_reached_and_no_copy_here_are_said_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        HubError, match=r"'user/name' is not in the local cache of the Hub, and http://127.0.0.1:9 is not"
    ):
        require_named("user/name")
    (tmp_path / "models--user--name").mkdir()
    require_named("user/name")
