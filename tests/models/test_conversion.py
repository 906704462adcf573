"""Models of both kinds by `load_model`: what the checkpoint says, what is asked for, and what contradicts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from kinject.errors import ConfigurationError
from kinject.models import DiffusionSettings, diffusion_settings, load_model, prove_bidirectional, to_diffusion
from kinject.models.diffusion import text_config
from tests.conftest import build_model, build_tokenizer

IDS = torch.arange(40, 52)[None]
SIZES = {
    "vocab_size": 261,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def save(directory: Path, model: Any, *extra_tokens: str, **changes: Any) -> str:
    """Save ``model`` with a tokenizer, and change fields of its `config.json`."""
    model.save_pretrained(directory)
    build_tokenizer(extra_tokens=extra_tokens or ("<reserved_0>",)).save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return str(directory)


def random_model(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def sees_the_end(model: Any) -> bool:
    changed = IDS.clone()
    changed[0, -1] = 9
    with torch.no_grad():
        return not torch.equal(model(IDS).logits[0, 0], model(changed).logits[0, 0])


@pytest.fixture
def causal(tmp_path: Path) -> str:
    return save(tmp_path / "causal", build_model(build_tokenizer()))


@pytest.fixture
def diffusion(tmp_path: Path) -> str:
    model = to_diffusion(build_model(build_tokenizer()), 260, shifted_logits=False)
    return save(tmp_path / "diffusion", model)


def test_a_causal_checkpoint_stays_causal_unless_asked(causal: str) -> None:
    loaded = load_model(causal)
    assert not loaded.is_diffusion and not sees_the_end(loaded.model)
    with pytest.raises(ConfigurationError, match=r"causal \(autoregressive\).*load_model\(name, to_diffusion=True\)"):
        diffusion_settings(loaded.model)


def test_a_causal_checkpoint_is_converted_with_a_token_of_its_own_vocabulary(causal: str) -> None:
    loaded = load_model(causal, to_diffusion=True)
    assert loaded.is_diffusion and sees_the_end(loaded.model)
    assert diffusion_settings(loaded.model) == DiffusionSettings(mask_token_id=260, shifted_logits=True)
    assert loaded.tokenizer.convert_ids_to_tokens(260) == "<reserved_0>"
    other = load_model(causal, to_diffusion=True, mask_token="~", shifted_logits=False)
    index = loaded.tokenizer.convert_tokens_to_ids("~")
    assert diffusion_settings(other.model) == DiffusionSettings(mask_token_id=index, shifted_logits=False)


def test_a_converted_model_is_one_after_saving_it(causal: str, tmp_path: Path) -> None:
    loaded = load_model(causal, to_diffusion=True)
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    again = load_model(str(tmp_path / "saved"))
    assert diffusion_settings(again.model) == diffusion_settings(loaded.model)
    with torch.no_grad():
        torch.testing.assert_close(again.model(IDS).logits, loaded.model(IDS).logits)


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**SIZES),
        Qwen3Config(head_dim=8, **SIZES),
        BloomConfig(vocab_size=261, hidden_size=32, n_head=4, n_layer=2),
    ],
    ids=["qwen2", "qwen3", "another that passes the probe"],
)
def test_other_architectures_are_converted(config: PretrainedConfig, tmp_path: Path) -> None:
    path = save(tmp_path / "model", random_model(config))
    assert not sees_the_end(load_model(path).model)
    assert sees_the_end(load_model(path, to_diffusion=True).model)


def test_a_recurrent_architecture_is_refused(tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=261, hidden_size=32, num_hidden_layers=2, state_size=4)
    path = save(tmp_path / "mamba", random_model(config))
    with pytest.raises(ConfigurationError, match="model 'mamba': .*(layers of linear_attention|stays causal)"):
        load_model(path, to_diffusion=True)


def test_the_probe_notices_attention_that_is_causal_after_all(diffusion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attend_causally(*arguments: Any, **options: Any) -> Any:
        return attend(*arguments, **{**options, "is_causal": True})

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", attend_causally)
    with pytest.raises(
        ConfigurationError, match="model 'diffusion': LlamaForCausalLM stays causal: its first position"
    ):
        load_model(diffusion)


def test_the_probe_leaves_the_model_as_it_was(tiny_model: LlamaForCausalLM) -> None:
    to_diffusion(tiny_model.train(), 260)
    assert tiny_model.training and all(parameter.grad is None for parameter in tiny_model.parameters())
    text_config(tiny_model)._attn_implementation = "flash_attention_2"  # which no CPU runs
    prove_bidirectional(tiny_model)
    assert text_config(tiny_model)._attn_implementation == "flash_attention_2"


def test_weights_that_are_elsewhere_are_not_probed(
    tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove_bidirectional(tiny_model.to("meta"))
    causal = build_model(build_tokenizer())
    with pytest.raises(ConfigurationError, match="stays causal"):
        prove_bidirectional(causal)
    monkeypatch.setattr("transformers.integrations.is_deepspeed_zero3_enabled", lambda: True)
    prove_bidirectional(causal)


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(use_sliding_window=True, sliding_window=64, max_window_layers=1, **SIZES),
        MistralConfig(sliding_window=64, **SIZES),
    ],
    ids=["some layers", "all layers"],
)
def test_windows_are_refused_since_a_short_probe_fits_into_them(config: PretrainedConfig, tmp_path: Path) -> None:
    path = save(tmp_path / "window", random_model(config))
    with pytest.raises(ConfigurationError, match="has layers of sliding_attention.*use_sliding_window"):
        load_model(path, to_diffusion=True)


def test_a_diffusion_checkpoint_needs_no_asking_and_stays_as_it_is(diffusion: str) -> None:
    for options in ({}, {"to_diffusion": True}, {"mask_token": "<reserved_0>", "shifted_logits": False}):
        loaded = load_model(diffusion, **options)
        assert diffusion_settings(loaded.model) == DiffusionSettings(mask_token_id=260, shifted_logits=False)
        assert sees_the_end(loaded.model)


def test_contradicting_a_diffusion_checkpoint_is_refused(diffusion: str) -> None:
    with pytest.raises(ConfigurationError, match="trained with the mask token '<reserved_0>', not '~'"):
        load_model(diffusion, mask_token="~")
    with pytest.raises(ConfigurationError, match="trained with shifted_logits=False"):
        load_model(diffusion, to_diffusion=True, shifted_logits=True)


def test_settings_of_diffusion_models_mean_nothing_for_a_causal_one(causal: str) -> None:
    with pytest.raises(ConfigurationError, match="model 'causal': is causal, and mask_token and shifted_logits are"):
        load_model(causal, mask_token="~")


def test_a_trained_mask_token_is_found_by_name_or_asked_for_but_never_guessed(tmp_path: Path) -> None:
    model = build_model(build_tokenizer())
    named = save(tmp_path / "named", model, "<|mdm_mask|>", is_causal=False)
    assert diffusion_settings(load_model(named).model).mask_token_id == 260
    nameless = save(tmp_path / "nameless", model, "<reserved_0>", is_causal=False)
    with pytest.raises(ConfigurationError, match=r"neither its config\.json \(mask_token_id\) nor its tokenizer"):
        load_model(nameless)
    assert diffusion_settings(load_model(nameless, mask_token="<reserved_0>").model).mask_token_id == 260
    outside = save(tmp_path / "outside", model, is_causal=False, mask_token_id=9999)
    with pytest.raises(ConfigurationError, match="mask_token_id is 9999, outside its vocabulary of 261"):
        load_model(outside)


def test_a_vocabulary_without_a_spare_token_is_refused_with_the_fix(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(extra_tokens=())
    build_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="no mask token and no reserved or unused token"):
        load_model(str(tmp_path), to_diffusion=True)


def test_weights_that_do_not_fit_are_refused_for_causal_models_too(causal: str) -> None:
    from safetensors.torch import load_file, save_file

    file = Path(causal) / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.7.extra.weight"] = weights.pop("lm_head.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"1 missing \(lm_head\.weight\); 1 unexpected \(model\.layers\.7"):
        load_model(causal)


def test_tied_heads_and_old_rotary_buffers_are_no_missing_or_unexpected_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = save(tmp_path / "tied", random_model(Qwen2Config(tie_word_embeddings=True, **SIZES)))
    file = Path(path) / "model.safetensors"
    weights = load_file(file)
    assert "lm_head.weight" not in weights
    load_model(path)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, file, metadata={"format": "pt"})
    load_model(path)
