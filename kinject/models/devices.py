"""The device on which a model runs, its precision, and the memory that a run needs there. Knows nothing of documents.

accelerate chooses the device of training. A model that is loaded to be asked gets its device only from here, and tests replace
`accelerator`, `is_fast_in_bf16`, `free_memory` and `device_memory`.

Memory is estimated before anything is loaded, from the model that a `config.json` describes, built without weights. Counted are
weights, gradients and optimizer states as the strategy shards them, the 16-bit copies of autocast, activations for the backward
pass, the output head's tiles, and keys and values of questions that are answered together. CUDA and NCCL (1 to 2 GB) and
fragmentation are not counted; a tenth of the device is left for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

GIGABYTE = 1e9
USABLE = 0.9  # share of a device's memory that a run may need
STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "zero3_offload", "fsdp2")
"""How a launch shards a model, by the names in `deepspeed_configs/`; `ddp` is also used for a single process."""
NF4_BYTES = 0.5625  # of a weight: 4 bits, and a scale of 32 bits for every 64 weights
_HEAD_TILE = (4096, 8192)  # targets and rows of the vocabulary that trl's fused head projects at once
# Bytes of the optimizer's states for each trained weight, by the longest name with which an optimizer's name begins. 8-bit
# AdamW keeps 32 bits for embeddings.
_STATES = {
    "": 8.0,
    "adamw_bnb_8bit": 2.0,
    "adamw_8bit": 2.0,
    "paged_adamw_8bit": 2.0,
    "ademamix_8bit": 3.0,
    "paged_ademamix_8bit": 3.0,
    "lion": 4.0,
    "lion_8bit": 1.0,
    "paged_lion_8bit": 1.0,
    "paged_lion": 4.0,
    "adafactor": 0.1,
    "sgd": 4.0,
    "rmsprop": 4.0,
    "adagrad": 4.0,
    "galore": 2.0,
    "apollo": 2.0,
}


def accelerator() -> torch.device | None:
    """This process's accelerator, with its number; None if there is none."""
    if not torch.accelerator.is_available():
        return None
    kind = torch.accelerator.current_accelerator()
    return None if kind is None else torch.device(kind.type, torch.accelerator.current_device_index())


def is_fast_in_bf16(device: torch.device) -> bool:
    """Whether an accelerator computes in bf16 in hardware; older GPUs emulate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type in ("xpu", "hpu", "npu")


def free_memory() -> int | None:
    """Bytes of its accelerator that this process could still allocate; None without one, or where that is unknown."""
    device = accelerator()
    if device is None or device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)


def device_memory(device: torch.device) -> int | None:
    """Bytes of memory of ``device``; None for the processor, or where that is unknown."""
    if device.type not in ("cuda", "xpu"):
        return None
    return int(getattr(torch, device.type).get_device_properties(device).total_memory)


def device_and_dtype(device: str | torch.device | None = None) -> tuple[torch.device, str | None]:
    """The device and the precision in which a model is asked.

    Args:
        device: The device. Default: the accelerator, if there is one, else the processor.

    Returns:
        The device, and the name of the precision; on the processor None, which stands for the checkpoint's own.
    """
    place = torch.device(device) if device is not None else accelerator() or torch.device("cpu")
    if place.type == "cpu":
        return place, None
    return place, "bfloat16" if is_fast_in_bf16(place) else "float32"


def place(model: Any, device: torch.device) -> None:
    """Move ``model`` to ``device``, unless it is there, is spread by a device map, or is quantized and cannot be moved."""
    if getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False) or model.device == device:
        return
    model.to(device)


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Keep ``model`` on ``device`` in the block, and move it back afterwards."""
    before: torch.device = model.device  # type: ignore[assignment]
    there = before.type == "meta"  # weights that another process holds
    if not there:
        place(model, device)
    try:
        yield
    finally:
        if not there:
            place(model, before)


def described(model: Any) -> str:
    """Device and precision of ``model``, such as `cuda:0 (NVIDIA H200), bfloat16`."""
    device = model.device
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"{device}{name}, {str(model.dtype).removeprefix('torch.')}"


# The memory of a training run.


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that memory and operations depend on.

    Attributes:
        parameters: All weights.
        embedding: Weights of the input embedding, which are not multiplied; 0 if they are also the output head.
        layers: Number of layers.
        hidden: Width of the residual stream.
        intermediate: Inner width of a layer's MLP, summed over the experts of a token.
        queries, keys: Width of all heads of queries, and of keys, which equals that of values.
        vocabulary: Rows of the output head.
        positions: The most tokens of a row, if the configuration says.
    """

    parameters: int
    embedding: int
    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    vocabulary: int
    positions: int | None = None

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied with: in dense models all but the embedding (and norms, which are few)."""
        return self.parameters - self.embedding

    def flops_per_token(self, trained: int | None = None) -> float:
        """Operations of a training step per token, as `kinject.models.weights.flops_per_token` counts them.

        Args:
            trained: Weights of an adapter. Default: no adapter, all weights are trained.
        """
        if trained is None:
            return 6.0 * self.multiplied
        return 4.0 * (self.multiplied + trained) + 2.0 * trained


@dataclass(frozen=True)
class Plan:
    """The settings of a run that decide on its memory.

    Attributes:
        strategy: One of `STRATEGIES`.
        processes: Number of devices.
        tokens: Tokens in the batch of one device, padding included.
        scored: Targets among these, which go through the head at once. Default: all.
        adapter: Weights of the adapter that is trained; None if the model itself is.
        weight_bytes: Bytes of a stored weight: 4, 2, 1, or `NF4_BYTES`.
        half: Whether training computes in 16 bits.
        optimizer: Its name in transformers.
        checkpointing: Whether activations are recomputed.
        anchored: Whether a copy of the untrained model is kept.
        still: Weights of the model that do not learn, where no adapter does.
        preserved: Numbers in fp32 that are kept of matrices whose largest singular values stay.
        answers: Questions that are answered at once, times the tokens of a prompt with its longest answer.
    """

    strategy: str = "ddp"
    processes: int = 1
    tokens: int = 4096
    scored: int | None = None
    adapter: int | None = None
    weight_bytes: float = 4.0
    half: bool = True
    optimizer: str = "adamw_torch_fused"
    checkpointing: bool = False
    anchored: bool = False
    still: int = 0
    preserved: int = 0
    answers: int = 0


@dataclass(frozen=True)
class Need:
    """Bytes that a run needs on each device, and on the host for all devices; ``parts`` are those of the device by use."""

    device: float
    host: float
    parts: dict[str, float]


def without_weights(config: Any) -> Any:
    """The model that ``config``, a transformers configuration, describes, on the device meta.

    Raises:
        ValueError: transformers has no causal language model of this configuration.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def sizes(config: Any) -> Sizes:
    """The sizes of the model that ``config``, a transformers configuration, describes; no weights are allocated.

    Raises:
        ValueError: transformers has no causal language model of this configuration.
    """
    model = without_weights(config)
    text = config.get_text_config()
    heads = int(getattr(text, "num_attention_heads", 1) or 1)
    hidden = int(text.hidden_size)
    width = int(getattr(text, "head_dim", None) or hidden // heads)
    experts = int(getattr(text, "num_experts_per_tok", None) or 1)
    inner = getattr(text, "moe_intermediate_size", None) if experts > 1 else None
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    shared = head is not None and head.weight is embedding.weight
    return Sizes(
        parameters=sum(weight.numel() for weight in model.parameters()),
        embedding=0 if shared else embedding.weight.numel(),
        layers=int(text.num_hidden_layers),
        hidden=hidden,
        intermediate=experts * int(inner or getattr(text, "intermediate_size", None) or 4 * hidden),
        queries=heads * width,
        keys=int(getattr(text, "num_key_value_heads", None) or heads) * width,
        vocabulary=int(text.vocab_size),
        positions=getattr(text, "max_position_embeddings", None),
    )


def adapter_weights(model: Sizes, rank: int, modules: str | list[str] | None = None) -> int:
    """Weights of a LoRA adapter of ``rank`` on ``modules`` with Llama's names; other names count as square layers."""
    widths = {
        "q_proj": (model.hidden, model.queries),
        "k_proj": (model.hidden, model.keys),
        "v_proj": (model.hidden, model.keys),
        "o_proj": (model.queries, model.hidden),
        "gate_proj": (model.hidden, model.intermediate),
        "up_proj": (model.hidden, model.intermediate),
        "down_proj": (model.intermediate, model.hidden),
    }
    named = ["q_proj", "v_proj"] if modules is None else [modules] if isinstance(modules, str) else modules
    chosen = list(widths) if "all-linear" in named else named
    return model.layers * rank * sum(sum(widths.get(each, (model.hidden, model.hidden))) for each in chosen)


def activations(model: Sizes, plan: Plan) -> float:
    """Bytes that the forward pass keeps for the backward pass, in layers like Llama's with attention that keeps no scores.

    Under autocast over fp32 weights the residual stream is fp32, and the inputs of matrix products are 16-bit copies.
    """
    part = 2 if plan.half else 4
    stream = 2 if plan.half and plan.weight_bytes <= 2 else 4
    hidden, inner, queries, keys = model.hidden, model.intermediate, model.queries, model.keys
    norms = 2 * 4 * hidden  # the inputs of the two norms, in fp32
    if plan.adapter is None:
        norms += 2 * 4 * hidden  # and their normalized inputs, for the gradients of their own weights
    # Autocast makes a copy of an fp32 norm's output for each of five products; adapters keep those of the other two, too.
    inputs = 5 * part * hidden if plan.half else 2 * part * hidden
    if plan.adapter is not None:
        inputs += part * queries
    attention = part * (2 * queries + 2 * keys)  # queries, the result, keys, values
    mlp = part * 4 * inner  # gate, its activation, up, and their product
    layer = norms + inputs + attention + mlp
    kept = model.layers * layer
    if plan.checkpointing:
        kept = model.layers * stream * model.hidden + layer
    scored = plan.tokens if plan.scored is None else plan.scored
    tile = min(scored, _HEAD_TILE[0]) * min(model.vocabulary, _HEAD_TILE[1]) * 4 * 2
    # The head's gradient is summed in fp32, beside the 16-bit copy of its weight.
    head = tile + scored * model.hidden * (stream + 4) + (4 * _head(model) if plan.half and plan.adapter is None else 0)
    return plan.tokens * kept + head


def needed(model: Sizes, plan: Plan) -> Need:
    """The memory that ``plan`` needs to train ``model`` and to ask it."""
    count, split = model.parameters, plan.processes
    trained = count if plan.adapter is None else plan.adapter
    states = _states(model, plan)
    copies = 2.0 * model.multiplied if plan.half and plan.weight_bytes > 2 else 0.0
    activated = activations(model, plan)
    # Keys are in fp32, values in the precision of computing.
    answering = plan.answers * model.layers * model.keys * (6 if plan.half else 8)
    host = 0.0
    if plan.adapter is not None:
        weights = plan.weight_bytes * (count - (model.embedding + _head(model) if plan.weight_bytes < 1 else 0))
        weights += 2.0 * (model.embedding + _head(model)) if plan.weight_bytes < 1 else 0.0
        parts = {"weights": weights, "adapter": 4.0 * trained, "gradients": 4.0 * trained, "optimizer": states}
        if plan.strategy in ("zero3", "fsdp2"):
            parts = {name: value / split for name, value in parts.items()}
        parts["copies"] = copies if plan.strategy not in ("zero3", "fsdp2") else 2.0 * count / model.layers
    elif plan.strategy == "ddp":  # gradients lie in the buckets that are sent (`gradient_as_bucket_view`)
        weights, gradients = plan.weight_bytes * count, plan.weight_bytes * (count - plan.still)
        parts = {"weights": weights, "gradients": gradients, "optimizer": states, "copies": copies}
        parts["preserved"] = 4.0 * plan.preserved  # goes with this strategy alone
    elif plan.strategy == "zero1":
        # 16-bit weights and gradients, fp32 sums of gradients; master weights and states sharded.
        parts = {"weights": 2.0 * count, "gradients": 6.0 * count, "optimizer": (4.0 * count + states) / split}
    elif plan.strategy == "zero2":  # 16-bit weights; fp32 gradients, master weights and states sharded
        parts = {"weights": 2.0 * count, "gradients": 4.0 * count / split, "optimizer": (4.0 * count + states) / split}
    else:  # weights sharded, too, and two layers gathered at a time; or all of them, to answer questions
        sharded = {"weights": 2.0 * count, "gradients": 4.0 * count, "optimizer": 4.0 * count + states}
        gathered = 4.0 * count / model.layers
        parts = {name: value / split for name, value in sharded.items()} | {"copies": gathered}
        if plan.strategy == "zero3_offload":
            parts, host = {"copies": gathered}, sum(sharded.values())
    if plan.anchored and plan.adapter is None:  # with an adapter no copy is needed, since it can be switched off
        parts["untrained"] = (plan.weight_bytes + (2.0 if copies else 0.0)) * count
    held = sum(parts.values())
    # While questions are answered there are no activations and no gradients; ZeRO-3 gathers the model for them if it fits.
    asked = held - parts.get("gradients", 0.0) + answering
    return Need(max(held + activated, asked), host, {**parts, "activations": activated, "answering": answering})


def _states(model: Sizes, plan: Plan) -> float:
    """Bytes of the optimizer's states, unsharded."""
    name = max((each for each in _STATES if plan.optimizer.startswith(each)), key=len)
    each = _STATES[name]
    if plan.adapter is not None:
        return each * plan.adapter
    in_full = model.parameters - model.multiplied if "8bit" in name and not plan.still else 0
    return each * (model.parameters - plan.still - in_full) + 8.0 * in_full


def _head(model: Sizes) -> int:
    return model.vocabulary * model.hidden


def alternatives(model: Sizes, plan: Plan, limit: float) -> Iterator[tuple[str, Need]]:
    """Other ways to train ``model`` with at most ``limit`` bytes of a device, as options; the smallest changes first."""
    lora = adapter_weights(model, 16, "all-linear")
    sharing = [(f"deepspeed_configs/{name}.yaml", {"strategy": name}) for name in ("zero1", "zero2", "zero3")]
    ways: list[tuple[str, dict[str, Any]]] = [
        ("--gradient_checkpointing true", {"checkpointing": True}),
        ("--optim adamw_bnb_8bit", {"optimizer": "adamw_bnb_8bit"}),
        (
            "--gradient_checkpointing true --optim adamw_bnb_8bit",
            {"checkpointing": True, "optimizer": "adamw_bnb_8bit"},
        ),
        *([(f"--config_file {file}", how) for file, how in sharing] if plan.processes > 1 else []),
        ("--config_file deepspeed_configs/zero3_offload.yaml", {"strategy": "zero3_offload"}),
        ("--use_peft true", {"adapter": lora, "weight_bytes": 2.0, "strategy": "ddp"}),
        ("--use_peft true --load_in_4bit true", {"adapter": lora, "weight_bytes": NF4_BYTES, "strategy": "ddp"}),
        (
            "--use_peft true --load_in_4bit true --gradient_checkpointing true",
            {"adapter": lora, "weight_bytes": NF4_BYTES, "strategy": "ddp", "checkpointing": True},
        ),
    ]
    for options, changes in ways:
        if plan.adapter is not None and "adapter" not in changes and "checkpointing" not in changes:
            continue
        other = replace(plan, **changes)
        if other == plan:
            continue
        need = needed(model, other)
        if need.device <= limit:
            yield options, need
