"""What makes a model a masked diffusion model: attention in both directions, and a mask token."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from kinject.errors import ConfigurationError
from kinject.models.diffusion import DiffusionSettings, diffusion_settings, is_diffusion, to_diffusion


def test_an_ar_model_becomes_a_diffusion_model_in_place_with_its_weights(tiny_model: LlamaForCausalLM) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    assert not is_diffusion(tiny_model)
    assert to_diffusion(tiny_model, mask_token_id=7) is tiny_model
    assert is_diffusion(tiny_model)
    assert diffusion_settings(tiny_model) == DiffusionSettings(mask_token_id=7, shifted_logits=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_model.state_dict().items())


def test_the_settings_are_found_behind_an_adapter_and_a_parallel_wrapper(tiny_model: LlamaForCausalLM) -> None:
    to_diffusion(tiny_model, mask_token_id=7, shifted_logits=False)
    adapter = get_peft_model(tiny_model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    wrapped = torch.nn.Module()
    wrapped.module = adapter
    assert is_diffusion(wrapped)
    assert diffusion_settings(wrapped) == DiffusionSettings(mask_token_id=7, shifted_logits=False)


def test_attention_modules_are_told_too_since_flash_attention_asks_them(tiny_model: LlamaForCausalLM) -> None:
    to_diffusion(tiny_model, mask_token_id=7)
    told = [module.is_causal for module in tiny_model.modules() if hasattr(module, "is_causal")]
    assert len(told) == tiny_model.config.num_hidden_layers and not any(told)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_every_position_sees_every_other_but_no_padding(tiny_model: LlamaForCausalLM, implementation: str) -> None:
    tiny_model.set_attn_implementation(implementation)
    to_diffusion(tiny_model.eval(), mask_token_id=7)
    ids = torch.arange(10, 18)[None]  # (1, 8)
    changed = ids.clone()
    changed[0, -1] = 9
    with torch.no_grad():
        assert not torch.allclose(tiny_model(ids).logits[0, 0], tiny_model(changed).logits[0, 0])
        mask = torch.tensor([[1] * 7 + [0]])
        kept, other = (tiny_model(row, attention_mask=mask).logits[:, :7] for row in (ids, changed))
        torch.testing.assert_close(kept, other, rtol=0, atol=0)
        torch.testing.assert_close(kept, tiny_model(ids[:, :7]).logits)


def test_a_causal_model_is_refused_with_the_fix(tiny_model: LlamaForCausalLM) -> None:
    with pytest.raises(ConfigurationError, match=r"causal \(autoregressive\).*kinject\.models\.to_diffusion"):
        diffusion_settings(tiny_model)


def test_a_missing_mask_id_is_refused(tiny_model: LlamaForCausalLM) -> None:
    tiny_model.config.is_causal = False
    with pytest.raises(ConfigurationError, match=r"config\.json has no mask_token_id"):
        diffusion_settings(tiny_model)


@pytest.mark.parametrize("mask_token_id", [-1, 10_000])
def test_a_mask_id_outside_the_vocabulary_is_refused_and_changes_nothing(
    tiny_model: LlamaForCausalLM, mask_token_id: int
) -> None:
    with pytest.raises(ConfigurationError, match=f"mask_token_id is {mask_token_id}, outside its vocabulary of"):
        to_diffusion(tiny_model, mask_token_id)
    assert not is_diffusion(tiny_model)
    assert not hasattr(tiny_model.config, "mask_token_id")
