"""Which launch configuration fits a model on so many GPUs: memory computed by plain arithmetic, not measured.

    python deepspeed_configs/memory.py                                   # the table of docs/many_gpus.md
    python deepspeed_configs/memory.py --gpu_gigabytes 40 --tokens 8192  # other GPUs, larger batches

Counted for every GPU, in GB (1e9 bytes): weights, gradients and AdamW states as the configuration shards them; one
checkpointed activation a layer and the working set of one layer; and under ZeRO-3 the whole model in 16 bits, which is
gathered for questions when no activations are held. Not counted: what CUDA and NCCL take (1 to 2 GB), fragmentation,
caches of generation. A configuration fits if it takes no more than nine tenths of the GPU.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """The sizes that memory depends on; vocabulary and embeddings are part of ``parameters``."""

    name: str
    parameters: float
    layers: int
    hidden: int


@dataclass(frozen=True)
class Need:
    """What a configuration takes, in bytes: of each GPU, and of the host for all of them."""

    gpu: float
    host: float = 0.0


MODELS = (
    Model("SmolLM2-135M", 0.135e9, 30, 576),
    Model("Llama-3.2-3B", 3.21e9, 28, 3072),
    Model("Qwen3-4B", 4.02e9, 36, 2560),
    Model("Qwen2.5-7B", 7.62e9, 28, 3584),
    Model("Llama-3.1-8B, LLaDA-8B", 8.03e9, 32, 4096),
    Model("Qwen2.5-32B", 32.8e9, 64, 5120),
    Model("Llama-3.1-70B", 70.6e9, 80, 8192),
)
GPUS = (1, 2, 4, 8)
# Full fine-tuning: in the order of how little they communicate.
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero3_offload")
_ADAPTER_SHARE = 0.01  # of the weights: LoRA of rank 32 on all linear layers takes about that
_NF4_BYTES = 0.56  # a weight: 4 bits, a scale for every 64 of them, embeddings and head in 16 bits


def activations(model: Model, tokens: int) -> float:
    """Bytes under gradient checkpointing: what each layer starts from, and all of one layer (arXiv 2205.05198), in bf16."""
    return tokens * model.hidden * (2 * model.layers + 34)


def full(model: Model, strategy: str, gpus: int, tokens: int) -> Need:
    """Memory to train all weights: AdamW, bf16 computation, fp32 master weights and gradients.

    Args:
        model: What is trained.
        strategy: One of `STRATEGIES`.
        gpus: How many share it.
        tokens: Of the batch of one GPU.
    """
    count, held = model.parameters, activations(model, tokens)
    whole, layer = 2 * count, 2 * count / model.layers
    if strategy == "ddp":  # fp32 weights, gradients and two moments, and the bf16 copies that autocast keeps
        return Need((4 + 4 + 8 + 2) * count + held)
    if strategy == "zero1":  # bf16 weights and gradients, fp32 sums of gradients; master weights and moments sharded
        return Need((2 + 2 + 4) * count + 12 * count / gpus + held)
    if strategy == "zero2":  # bf16 weights; fp32 gradients, master weights and moments sharded
        return Need(2 * count + 16 * count / gpus + held)
    sharded = 18 * count / gpus
    at_most = max(held + 2 * layer, whole)  # training, or answering questions
    if strategy == "zero3":
        return Need(sharded + at_most)
    return Need(at_most, host=18 * count)  # zero3_offload


def adapter(model: Model, quantized: bool, tokens: int) -> Need:
    """Memory to train an adapter on each GPU by itself (`ddp`): the base in bf16 or NF4, 16 bytes an adapter's weight."""
    base = (_NF4_BYTES if quantized else 2) * model.parameters
    return Need(base + 16 * _ADAPTER_SHARE * model.parameters + activations(model, tokens))


def choose(model: Model, gpus: int, tokens: int, limit: float) -> tuple[str, Need] | None:
    """The first configuration that trains all weights in at most ``limit`` bytes of a GPU, if there is one."""
    # A single GPU has nobody to share with, but it can offload.
    strategies = STRATEGIES if gpus > 1 else ("ddp", "zero3_offload")
    needs = ((strategy, full(model, strategy, gpus, tokens)) for strategy in strategies)
    return next(((strategy, need) for strategy, need in needs if need.gpu <= limit), None)


def table(gpu_gigabytes: float, tokens: int) -> str:
    """The choice for every model and number of GPUs, as a Markdown table."""
    limit = 0.9e9 * gpu_gigabytes
    heads = ["model", *(f"full, {gpus} GPU{'s' if gpus > 1 else ''}" for gpus in GPUS), "LoRA", "QLoRA"]
    lines = [heads, ["---"] * len(heads)]
    for model in MODELS:
        cells = [model.name]
        for gpus in GPUS:
            chosen = choose(model, gpus, tokens, limit)
            cells.append("-" if chosen is None else _cell(*chosen))
        adapters = (adapter(model, quantized, tokens) for quantized in (False, True))
        cells += ["-" if need.gpu > limit else _cell("ddp", need) for need in adapters]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(strategy: str, need: Need) -> str:
    host = f" (host {need.host / 1e9:.0f})" if need.host else ""
    return f"`{strategy}` {need.gpu / 1e9:.{0 if need.gpu >= 1e10 else 1}f}{host}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu_gigabytes", type=float, default=80.0, help="memory of a GPU (80)")
    parser.add_argument(
        "--tokens", type=int, default=4096, help="tokens in the batch of one GPU, padding included (4096)"
    )
    arguments = parser.parse_args()
    print(table(arguments.gpu_gigabytes, arguments.tokens))


if __name__ == "__main__":
    main()
