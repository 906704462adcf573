"""What a training run costs: floating-point operations and memory."""

from __future__ import annotations

import sys
from typing import Any


def flops_per_token(model: Any) -> float:
    """An estimate of the floating-point operations of one training step per token.

    Every weight of a matrix product costs 2 operations in the forward pass and 2 for the gradient of its input, and a
    trained one 2 more for its own gradient (arXiv 2001.08361, section 2.1). Input embeddings are looked up, not
    multiplied, unless they are also the output head. Attention scores and recomputation under gradient checkpointing
    are not counted.
    """
    embeddings = {id(model.get_input_embeddings().weight)}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is not None:
        embeddings.discard(id(head.weight))
    multiplied = trained = 0
    for parameter in model.parameters():
        if len(getattr(parameter, "ds_shape", parameter.shape)) > 1 and id(parameter) not in embeddings:
            count = _size(parameter)
            multiplied += count
            trained += count if parameter.requires_grad else 0
    return 4.0 * multiplied + 2.0 * trained


def parameter_count(model: Any) -> int:
    """Number of weights, also of those that ZeRO-3 has sharded or bitsandbytes has packed."""
    return sum(_size(parameter) for parameter in model.parameters())


def peak_memory_bytes() -> int:
    """The most memory this process has held: on its GPU where it uses one, else resident in the host."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere but on macOS


def _size(parameter: Any) -> int:
    """Number of weights of a plain, ZeRO-3-sharded or 4-bit parameter."""
    quantized = getattr(parameter, "quant_state", None)
    if quantized is not None:
        return int(quantized.shape.numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))
