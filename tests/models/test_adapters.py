"""Adapters of diffusion models: what is written beside them, and what does not fit is not loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from kinject.errors import ConfigurationError
from kinject.models import DiffusionSettings, diffusion_settings, load_model, write_diffusion_settings
from tests.conftest import build_model, build_tokenizer
from tests.models.llada_checkpoint import write_checkpoint

IDS = torch.arange(40, 52)[None]


@pytest.fixture
def causal(tmp_path: Path) -> str:
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def train_adapter(base: str, directory: Path, **options: Any) -> Any:
    """An adapter on ``base`` whose weights do something, saved as a trainer would."""
    model = load_model(base, **options).model
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    adapted.save_pretrained(str(directory))
    return adapted.eval()


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


@pytest.mark.parametrize("shifted", [True, False])
def test_an_adapter_on_a_converted_model_is_a_diffusion_model_again(causal: str, tmp_path: Path, shifted: bool) -> None:
    adapted = train_adapter(causal, tmp_path / "adapter", to_diffusion=True, shifted_logits=shifted)
    path = write_diffusion_settings(tmp_path / "adapter", adapted)
    assert json.loads(path.read_text(encoding="utf-8")) == {"mask_token_id": 260, "shifted_logits": shifted}
    loaded = load_model(str(tmp_path / "adapter"))
    assert loaded.is_diffusion and loaded.source == "adapter" and loaded.name == "base"
    assert diffusion_settings(loaded.model) == DiffusionSettings(mask_token_id=260, shifted_logits=shifted)
    torch.testing.assert_close(logits_of(loaded.model), logits_of(adapted))


def test_without_its_settings_the_same_adapter_is_causal(causal: str, tmp_path: Path) -> None:
    adapted = train_adapter(causal, tmp_path / "adapter", to_diffusion=True)
    loaded = load_model(str(tmp_path / "adapter"))
    assert not loaded.is_diffusion
    converted = load_model(str(tmp_path / "adapter"), to_diffusion=True)
    torch.testing.assert_close(logits_of(converted.model), logits_of(adapted))


def test_an_adapter_on_a_diffusion_base_needs_no_settings_but_must_not_contradict_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "llada")
    adapted = train_adapter(str(tmp_path / "llada"), tmp_path / "adapter")
    torch.testing.assert_close(logits_of(load_model(str(tmp_path / "adapter")).model), logits_of(adapted))
    write_diffusion_settings(tmp_path / "adapter", adapted)
    assert diffusion_settings(load_model(str(tmp_path / "adapter")).model).mask_token_id == 260
    (tmp_path / "adapter" / "diffusion.json").write_text('{"mask_token_id": 3, "shifted_logits": true}')
    with pytest.raises(
        ConfigurationError, match=r"model 'adapter': diffusion\.json of the adapter says .*mask_token_id': 3"
    ):
        load_model(str(tmp_path / "adapter"))


@pytest.mark.parametrize("content", ["{", "[1]", '{"mask": 3}', '{"mask_token_id": 3, "steps": 4}'])
def test_settings_that_cannot_be_read_are_refused(causal: str, tmp_path: Path, content: str) -> None:
    train_adapter(causal, tmp_path / "adapter", to_diffusion=True)
    (tmp_path / "adapter" / "diffusion.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"diffusion\.json of the adapter cannot be read .*expected"):
        load_model(str(tmp_path / "adapter"))


def test_settings_of_a_causal_model_are_not_written(causal: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the model is causal"):
        write_diffusion_settings(tmp_path, load_model(causal).model)
    assert not (tmp_path / "diffusion.json").exists()


def test_weights_of_an_adapter_that_do_not_fit_are_refused(causal: str, tmp_path: Path) -> None:
    train_adapter(causal, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    # As an adapter trained with LLaDA's own code names them.
    renamed = {
        name.replace("model.layers.0.mlp.down_proj", "model.transformer.blocks.0.ff_out"): weight
        for name, weight in weights.items()
    }
    save_file(renamed, file)
    with pytest.raises(
        ConfigurationError, match=r"model 'adapter': .*2 missing \(.*down_proj.*2 unexpected \(.*ff_out"
    ):
        load_model(str(tmp_path / "adapter"))
    save_file({}, file)  # what sharded training once left behind
    with pytest.raises(ConfigurationError, match="8 missing"):
        load_model(str(tmp_path / "adapter"))
    file.unlink()
    torch.save(weights, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ConfigurationError, match=r"no adapter_model\.safetensors; pickled weights are not read"):
        load_model(str(tmp_path / "adapter"))


def test_targets_that_the_base_does_not_have_are_refused(causal: str, tmp_path: Path) -> None:
    train_adapter(causal, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"target_modules": ["attn_out"]}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="the adapter does not fit its base model: .*attn_out"):
        load_model(str(tmp_path / "adapter"))


def test_an_adapter_without_a_base_is_refused(causal: str, tmp_path: Path) -> None:
    train_adapter(causal, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": None}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="model 'adapter': .*no base_model_name_or_path"):
        load_model(str(tmp_path / "adapter"))


def test_an_adapter_with_trained_embeddings_fits(causal: str, tmp_path: Path) -> None:
    model = load_model(causal).model
    lora = LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1)
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=True)
    torch.testing.assert_close(logits_of(load_model(str(tmp_path / "adapter")).model), logits_of(adapted.eval()))


def test_both_come_from_the_hub_as_well(causal: str, tmp_path: Path) -> None:
    """From the Hub's cache, as a download leaves it."""
    cache = tmp_path / "cache"

    def repository(name: str) -> Path:
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40, encoding="utf-8")
        return folder / "snapshots" / ("0" * 40)

    snapshot = repository("someone/llada")
    write_checkpoint(snapshot)
    loaded = load_model("someone/llada", cache_dir=str(cache))
    assert loaded.is_diffusion and (loaded.name, loaded.source) == ("someone/llada", "hub")
    adapted: Any = get_peft_model(loaded.model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapter = repository("someone/adapter")
    adapted.save_pretrained(str(adapter))
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "someone/llada"
    write_diffusion_settings(adapter, adapted)
    again = load_model("someone/adapter", cache_dir=str(cache))
    assert again.is_diffusion and (again.name, again.source) == ("someone/llada", "adapter")
    torch.testing.assert_close(logits_of(again.model), logits_of(adapted.eval()))


def test_a_converted_base_in_memory_keeps_its_settings_for_the_next_save(causal: str, tmp_path: Path) -> None:
    adapted = train_adapter(causal, tmp_path / "first", to_diffusion=True)
    write_diffusion_settings(tmp_path / "first", adapted)
    again = load_model(str(tmp_path / "first")).model
    again.save_pretrained(str(tmp_path / "second"))
    write_diffusion_settings(tmp_path / "second", again)
    assert (tmp_path / "second" / "diffusion.json").read_text() == (tmp_path / "first" / "diffusion.json").read_text()
