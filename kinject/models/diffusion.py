"""What makes a transformers model a masked diffusion model, and turning an AR model into one.

A masked diffusion model is the native class of its architecture with bidirectional attention: nothing of it is remote
code. Two facts travel in its `config.json`: which token stands for a hidden one, and whether logits are shifted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROBE_LENGTH = 8


@dataclass(frozen=True)
class DiffusionSettings:
    """How a masked diffusion model is called.

    Attributes:
        mask_token_id: Stands for a hidden token.
        shifted_logits: Whether the logits at position i predict token i + 1, as in models that began as AR models
            (Dream, arXiv 2508.15487), instead of token i (LLaDA, arXiv 2502.09992).
    """

    mask_token_id: int
    shifted_logits: bool = False


def text_config(model: Any) -> Any:
    """The configuration of the language model inside ``model``, behind PEFT and data-parallel wrappers."""
    while not hasattr(model, "config") and isinstance(getattr(model, "module", None), torch.nn.Module):
        model = model.module
    return model.config.get_text_config()


def is_diffusion(model: Any) -> bool:
    """Whether ``model`` attends in both directions."""
    return not getattr(text_config(model), "is_causal", True)


def diffusion_settings(model: Any) -> DiffusionSettings:
    """How to call the masked diffusion model ``model``.

    Raises:
        ConfigurationError: the model is causal, or its configuration names no mask token.
    """
    config = text_config(model)
    if getattr(config, "is_causal", True):
        raise ConfigurationError(
            "the model is causal (autoregressive), not a masked diffusion model. Turn it into one with "
            "load_model(name, to_diffusion=True) or kinject.models.to_diffusion, or name a diffusion checkpoint."
        )
    mask_token_id = getattr(config, "mask_token_id", None)
    if mask_token_id is None:
        raise ConfigurationError(
            "the model's config.json has no mask_token_id; set it to the id that the model was trained to fill in."
        )
    _require_in_vocabulary(mask_token_id, config.vocab_size)
    return DiffusionSettings(int(mask_token_id), bool(getattr(config, "shifted_logits", False)))


def to_diffusion(model: PreTrainedModel, mask_token_id: int, *, shifted_logits: bool = True) -> PreTrainedModel:
    """Turn an AR model into a masked diffusion model, in place; the weights stay as they are.

    Args:
        model: A causal model of an architecture that can attend in both directions (Llama, Qwen, ...).
        mask_token_id: Stands for a hidden token from now on.
        shifted_logits: Keep predicting the next position, which starts training where the AR model left off (Dream).

    Returns:
        ``model``.

    Raises:
        ConfigurationError: the mask token is outside the vocabulary or some layers do not attend to everything, and
            ``model`` is left as it was; or attention stays causal, and ``model`` is of no use.
    """
    config = text_config(model)
    _require_in_vocabulary(mask_token_id, config.vocab_size)
    _require_full_attention(config)
    config.is_causal = False
    config.mask_token_id = mask_token_id
    config.shifted_logits = shifted_logits
    config.use_cache = False
    attend_both_ways(model)
    prove_bidirectional(model)
    return model


def attend_both_ways(model: torch.nn.Module) -> None:
    """Tell every attention module not to be causal: without a mask, attention kernels may ask the module."""
    module: Any
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def prove_bidirectional(model: torch.nn.Module) -> None:
    """Change the last of a few tokens, and see that the logits of the first change.

    Weights that cannot be run where they are (on the meta device, or sharded by ZeRO-3) prove nothing, and pass.

    Raises:
        ConfigurationError: the first position does not see the last.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    weights: Any = model.get_input_embeddings().weight  # type: ignore[operator]
    if is_deepspeed_zero3_enabled() or any(weight.device.type == "meta" for weight in model.parameters()):
        return
    config = text_config(model)
    ids = torch.arange(_PROBE_LENGTH, device=weights.device)[None] % config.vocab_size  # (1, length)
    changed = ids.clone()
    changed[0, -1] = config.vocab_size - 1
    training, implementation = model.training, config._attn_implementation
    if weights.device.type == "cpu" and "flash" in str(implementation):
        config._attn_implementation = "sdpa"  # FlashAttention runs on GPUs only, and training loads on the CPU first
    # For inference on a CPU bitsandbytes repacks 4-bit weights into what cannot be trained; with one seed for both
    # passes, dropout changes nothing either.
    model.train(bool(getattr(model, "is_quantized", False)))
    seen = []
    try:
        with torch.no_grad(), torch.random.fork_rng([weights.device] if weights.is_cuda else []):
            for row in (ids, changed):
                torch.manual_seed(0)
                seen.append(model(input_ids=row, use_cache=False).logits[0, 0])
    finally:
        model.train(training)
        config._attn_implementation = implementation
    if torch.equal(*seen):
        raise ConfigurationError(
            f"{type(model).__name__} stays causal: its first position does not see its last. Use a model of an "
            "architecture that transformers can run with is_causal=False, such as Llama, Qwen2 or Qwen3."
        )


def _require_in_vocabulary(mask_token_id: int, vocab_size: int) -> None:
    if not 0 <= mask_token_id < vocab_size:
        raise ConfigurationError(
            f"the model's mask_token_id is {mask_token_id}, outside its vocabulary of {vocab_size}; name the id of a "
            "token that the model has an embedding for."
        )


def _require_full_attention(config: Any) -> None:
    """Refuse windows and recurrent layers: a few tokens fit into any window, so the probe would not notice."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds and getattr(config, "sliding_window", None) is not None:
        kinds = {"sliding_attention"}
    if kinds - {"full_attention"}:
        raise ConfigurationError(
            f"the {config.model_type} model has layers of {', '.join(sorted(kinds - {'full_attention'}))}, and every "
            "position of a masked diffusion model attends to every other. Use a model with full attention in all "
            "layers, or take the window out of its config.json (use_sliding_window, sliding_window)."
        )
