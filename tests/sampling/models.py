"""Tiny masked diffusion models whose predictions differ from row to row."""

from __future__ import annotations

import copy
from typing import Any

import torch

from kinject.models.diffusion import to_diffusion

MASK = 3


def build_diffusion(
    vocab_size: int = 61, *, seed: int = 0, sharpness: float = 12.0, says_mask: bool = False, **config: Any
) -> Any:
    """A random two-layer Llama that attends both ways; the sharper, the more its tokens depend on their context.

    With ``says_mask`` it may predict the mask token itself, as nothing but training keeps a model from doing.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
        **config,
    }
    model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(sharpness)
        model.lm_head.weight.mul_(3.0)  # sure of some tokens
        if not says_mask:
            model.lm_head.weight[MASK] = 0.0
    return to_diffusion(model, MASK, shifted_logits=False)


class Coarse(torch.nn.Module):
    """A model whose logits are rounded to multiples of ``grid``: full of ties."""

    def __init__(self, model: Any, grid: float) -> None:
        super().__init__()
        self.inner, self.config, self.grid = model, model.config, grid

    def forward(self, **arguments: Any) -> Any:
        output = self.inner(**arguments)
        output.logits = (output.logits / self.grid).round() * self.grid
        return output


class Shifted(torch.nn.Module):
    """Says at i what another model says at i + 1: by construction a model with shifted logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner, self.config = model, copy.deepcopy(model.config)
        self.config.shifted_logits = True

    def forward(self, logits_to_keep: Any = None, **arguments: Any) -> Any:
        output = self.inner(**arguments)
        output.logits = output.logits.roll(-1, dims=1)
        if logits_to_keep is not None:
            output.logits = output.logits[:, logits_to_keep]
        return output


def random_prompts(
    count: int, *, shortest: int = 1, longest: int = 17, vocab_size: int = 61, seed: int = 0
) -> list[list[int]]:
    """Prompts of random tokens and lengths, without the mask token."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    drawn = [torch.randint(0, vocab_size - 1, (length,), generator=generator) for length in lengths]
    return [(ids + (ids >= MASK)).tolist() for ids in drawn]
