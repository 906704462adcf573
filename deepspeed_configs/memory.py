"""Which launch configuration fits a model on so many GPUs: memory as kinject computes it, not measured.

    python deepspeed_configs/memory.py                                   # the table of docs/many_gpus.md
    python deepspeed_configs/memory.py --gpu_gigabytes 40 --tokens 8192  # other GPUs, larger batches
    python deepspeed_configs/memory.py Qwen/Qwen3-8B ./my-model          # any model, by its config.json

What is counted stands in `kinject/models/devices.py`. Of each model and number of GPUs the first configuration is shown, in the
order of how little they communicate, that takes no more than nine tenths of a GPU, with activations checkpointed.
`kinject inject ... --plan` does the same for one run with all its settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from kinject.errors import ConfigurationError, exit_on_user_error
from kinject.models.devices import GIGABYTE, NF4_BYTES, USABLE, Need, Plan, Sizes, adapter_weights, needed, sizes

_LLAMA = {"model_type": "llama", "vocab_size": 128_256, "num_key_value_heads": 8}
_QWEN = {"model_type": "qwen2", "vocab_size": 152_064}
MODELS: dict[str, dict[str, Any]] = {  # as their config.json says it
    "SmolLM2-135M": {
        "model_type": "llama",
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "Llama-3.2-3B": _LLAMA
    | {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24}
    | {"head_dim": 128, "tie_word_embeddings": True},
    "Qwen3-4B": {"model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728}
    | {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    | {"tie_word_embeddings": True},
    "Qwen2.5-7B": _QWEN
    | {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4},
    "Llama-3.1-8B, LLaDA-8B": _LLAMA
    | {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "Qwen2.5-32B": _QWEN
    | {"hidden_size": 5120, "intermediate_size": 27_648, "num_hidden_layers": 64, "num_attention_heads": 40}
    | {"num_key_value_heads": 8},
    "Llama-3.1-70B": _LLAMA
    | {"hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
GPUS = (1, 2, 4, 8)
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero3_offload")
_RANK = 16  # of the adapters, on all linear layers


def choose(model: Sizes, gpus: int, tokens: int, limit: float) -> tuple[str, Need] | None:
    """The first configuration that trains all weights in at most ``limit`` bytes of a GPU, if there is one."""
    # A single GPU has nobody to share with, but it can offload.
    strategies = STRATEGIES if gpus > 1 else ("ddp", "zero3_offload")
    plans = {name: Plan(strategy=name, processes=gpus, tokens=tokens, checkpointing=True) for name in strategies}
    needs = ((name, needed(model, plan)) for name, plan in plans.items())
    return next(((name, need) for name, need in needs if need.device <= limit), None)


def table(models: Mapping[str, Sizes], gpu_gigabytes: float, tokens: int) -> str:
    """The choice for every model and number of GPUs, as a Markdown table."""
    limit = USABLE * GIGABYTE * gpu_gigabytes
    heads = ["model", *(f"full, {gpus} GPU{'s' if gpus > 1 else ''}" for gpus in GPUS), "LoRA", "QLoRA"]
    lines = [heads, ["---"] * len(heads)]
    for name, model in models.items():
        chosen = [choose(model, gpus, tokens, limit) for gpus in GPUS]
        cells = ["-" if each is None else _cell(*each) for each in chosen]
        adapter = adapter_weights(model, _RANK, "all-linear")
        for weight_bytes in (2.0, NF4_BYTES):
            need = needed(model, Plan(tokens=tokens, adapter=adapter, weight_bytes=weight_bytes, checkpointing=True))
            cells.append("-" if need.device > limit else _cell("ddp", need))
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(strategy: str, need: Need) -> str:
    host = f" (host {need.host / GIGABYTE:.0f})" if need.host else ""
    return f"`{strategy}` {need.device / GIGABYTE:.{0 if need.device >= 10 * GIGABYTE else 1}f}{host}"


def sizes_of(names: Sequence[str]) -> dict[str, Sizes]:
    """The sizes of the models ``names``, directories or Hub ids; of those of the table where there are none.

    Raises:
        ConfigurationError: a model whose configuration cannot be read.
    """
    from transformers import AutoConfig

    from kinject.models.loading import tokenizer_and_config

    if not names:
        return {name: sizes(AutoConfig.for_model(**fields)) for name, fields in MODELS.items()}
    found = {}
    for name in names:
        described = tokenizer_and_config(name, local_files_only=False)
        if described is None:
            raise ConfigurationError(
                f"model '{name}': its config.json is neither in the local cache nor on a Hub that answers."
            )
        found[name.rstrip("/").rpartition("/")[2]] = sizes(described[1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="directories or Hub ids; default: those of the table")
    parser.add_argument("--gpu_gigabytes", type=float, default=80.0, help="memory of a GPU (80)")
    parser.add_argument(
        "--tokens", type=int, default=4096, help="tokens in the batch of one GPU, padding included (4096)"
    )
    arguments = parser.parse_args()
    with exit_on_user_error():
        print(table(sizes_of(arguments.models), arguments.gpu_gigabytes, arguments.tokens))


if __name__ == "__main__":
    main()
