"""Saves a model under the names of its native class, or in LLaDA's layout for LLaDA's own tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kinject.errors import ConfigurationError
from kinject.models.llada import llada_fields, llada_names

if TYPE_CHECKING:
    from os import PathLike

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_model(
    model: PreTrainedModel,
    directory: str | PathLike[str],
    *,
    layout: Literal["native", "llada"] = "native",
    tokenizer: PreTrainedTokenizerBase | None = None,
    state_dict: dict[str, torch.Tensor] | None = None,
    max_shard_size: str = "5GB",
) -> None:
    """Save ``model`` so that `load_model` reads it back.

    Args:
        model: A whole model, not an adapter: merge one first, with `kinject.models.merge_adapter`.
        directory: Created if need be.
        layout: `native` is what transformers loads, bidirectional as it stands; `llada` has the names of weights and
            the `config.json` of LLaDA's own code.
        tokenizer: Saved beside the model if given.
        state_dict: The gathered weights of a sharded model, under native names; the model's own if left out.
        max_shard_size: Of one file of weights.

    Raises:
        ConfigurationError: the layout is unknown, or cannot hold such a model.
    """
    if layout not in ("native", "llada"):
        raise ConfigurationError(f"layout is {layout!r}; expected 'native' or 'llada'.")
    if layout == "llada":
        _save_llada(model, Path(directory), state_dict, max_shard_size)
    else:
        model.save_pretrained(directory, state_dict=state_dict, max_shard_size=max_shard_size)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)


def _save_llada(
    model: PreTrainedModel, directory: Path, state_dict: dict[str, torch.Tensor] | None, max_shard_size: str
) -> None:
    from huggingface_hub import save_torch_state_dict

    if hasattr(model, "peft_config") or getattr(model, "is_quantized", False):
        raise ConfigurationError(
            "LLaDA's layout holds whole models only, not adapters or quantized weights. Merge the adapter into an "
            "unquantized base with merge_and_unload first."
        )
    fields = llada_fields(model.config)
    weights: dict[str, Any] = dict(model.state_dict() if state_dict is None else state_dict)
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    names = llada_names(weights)
    directory.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(
        {names[name]: weight for name, weight in weights.items()},
        directory,
        max_shard_size=max_shard_size,
        metadata={"format": "pt"},
    )
    fields["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    (directory / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    model.generation_config.save_pretrained(directory)
