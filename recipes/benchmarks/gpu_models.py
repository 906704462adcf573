"""Models and documents for gpu.py: random models at full shapes, biographies, and timed steps of each way of training."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bf16 operations a second as stated by NVIDIA, by a part of the device's name."""
_LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
    "8b": _LLAMA_8B,
    "llada-8b": _LLAMA_8B | {"intermediate_size": 12_288, "num_key_value_heads": 32, "vocab_size": 126_464},
}


@cache
def tokenizer() -> Any:
    """The tokenizer of nano-ar, whose ids fit every shape's vocabulary."""
    from kinject.models import load_model

    return load_model("nano-ar").tokenizer


def random_llama(shape: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A Llama with random weights, created on ``device``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return LlamaForCausalLM(LlamaConfig(**shape, pad_token_id=0))
    finally:
        torch.set_default_dtype(before)


def documents(count: int, spread: bool = False) -> list[str]:
    """``count`` biographies; with ``spread`` each longer than the one before."""
    from kinject.data import load_knowledge

    texts = [each.text for each in load_knowledge("fictional:biography", size=max(8, count)).documents]
    if not spread:
        return (texts * count)[:count]
    words = " ".join(texts).split()
    return [" ".join(words[: 10 + 3 * index]) for index in range(count)]


@dataclass
class Trained:
    """The figures of some training steps.

    Attributes:
        losses: The loss of each step.
        gradient_norms: The norm of the gradients of each step.
        seconds: Of all steps after those that warm up.
        tokens_per_second: Tokens of the rows, without padding, in these seconds.
        flops_per_token: Of the model, with the head on the targets only.
        peak_memory: Bytes, on a GPU.
        waits: How often the processor waited for the GPU in the last step.
    """

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    flops_per_token: float = 0.0
    peak_memory: int = 0
    waits: int = 0


def train_steps(
    model: Any,
    of: Any,
    texts: list[str],
    steps: int,
    *,
    device: torch.device,
    bf16: bool = False,
    way: str = "shipped",
    kind: str = "full",
    optimizer: str = "adamw_torch_fused",
    batch_size: int = 4,
    warm: int = 0,
    system_prompt: str | None = None,
    settings: dict[str, Any] | None = None,
) -> Trained:
    """Train ``model`` for some steps in one way, and measure them.

    Args:
        model: The model, which is moved to ``device``.
        of: Its tokenizer.
        texts: Documents.
        steps: Number of steps.
        device: Where it is trained.
        bf16: Whether to compute in bf16.
        way: `public`, a plain loop as in the paper's code; `trl`, its trainer as it is shipped; `shipped`, ours as it is;
            `tuned`, ours without checkpointing, with rows grouped by length, and with Liger's kernels where they are there.
        kind: `full`, `lora` or `qlora`.
        optimizer: As transformers names it.
        batch_size: Rows of a step.
        warm: Steps that are not timed.
        system_prompt: Of every row.
        settings: Further settings of the trainers.
    """
    from datasets import Dataset
    from transformers.utils import is_liger_kernel_available

    from kinject.models.weights import flops_per_token
    from kinject.trainers import MaskedSFTConfig, MaskedSFTTrainer

    if kind == "qlora":
        quantize(model)
    peft_config = None if kind == "full" else lora()
    options: dict[str, Any] = {
        "output_dir": tempfile.gettempdir(),
        "per_device_train_batch_size": batch_size,
        "max_steps": steps,
        "learning_rate": 1e-3 if kind == "full" and model.config.hidden_size < 1000 else 1e-4,
        "lr_scheduler_type": "constant",
        "optim": optimizer,
        "bf16": bf16,
        "use_cpu": device.type == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "data_seed": 0,
    }
    if way == "tuned":
        liger = device.type != "cpu" and is_liger_kernel_available()
        options |= {
            "gradient_checkpointing": False,
            "train_sampling_strategy": "group_by_length",
            "use_liger_kernel": liger,
        }
    options |= settings or {}
    data = Dataset.from_dict({"text": texts})
    args = MaskedSFTConfig(**options, system_prompt=system_prompt)
    if kind == "full" and model.dtype == torch.bfloat16:
        args.learning_rate = 1e-2  # large enough to move 16-bit weights; a step costs the same at any rate
    watch = Watch(device, warm)
    ours = MaskedSFTTrainer(
        model if way in ("shipped", "tuned") else random_llama(SHAPES["tiny"], torch.device("cpu"), torch.float32),
        args,
        train_dataset=data,
        processing_class=of,
        callbacks=[watch.callback()],
        peft_config=peft_config if way in ("shipped", "tuned") else None,
    )
    rows = [ours.data_collator([ours.train_dataset[index % len(texts)]]) for index in range(len(texts))]  # type: ignore[index]
    samples = [{name: row[name][0].tolist() for name in ("input_ids", "labels")} for row in rows]
    scored = sum(label != -100 for row in samples for label in row["labels"])
    tokens = sum(len(row["input_ids"]) for row in samples)
    if way in ("shipped", "tuned"):
        watch.losses_of(ours)
        ours.train()
        trained: Any = ours.model
    elif way == "trl":
        from trl import SFTConfig, SFTTrainer

        plain = SFTTrainer(
            model,
            SFTConfig(**options, max_length=None),
            train_dataset=Dataset.from_list(samples),
            processing_class=of,
            callbacks=[watch.callback()],
            peft_config=peft_config,
        )
        watch.losses_of(plain)
        plain.train()
        trained = plain.model
    else:
        trained = public_loop(model, samples, steps, peft_config, bf16, batch_size, device, optimizer, watch)
    head = trained.get_output_embeddings().weight.numel()
    found = watch.found
    found.flops_per_token = flops_per_token(trained) - (6 if kind == "full" else 4) * head * (1 - scored / tokens)
    found.tokens_per_second = tokens / len(samples) * batch_size * max(1, steps - warm) / max(found.seconds, 1e-9)
    return found


class Watch:
    """Times steps, and keeps their losses and the norms of their gradients."""

    def __init__(self, device: torch.device, warm: int) -> None:
        self.found = Trained()
        self._device, self._warm, self._started = device, warm, 0.0
        self._losses: list[torch.Tensor] = []

    def begin(self, step: int) -> None:
        """Before step number ``step``, counted from 0."""
        if step == self._warm:
            if self._device.type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            self._started = time.perf_counter()

    def end(self) -> None:
        """After the last step."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            self.found.peak_memory = torch.cuda.max_memory_allocated()
        self.found.seconds = time.perf_counter() - self._started
        self.found.losses = [float(each) for each in self._losses]

    def see(self, loss: torch.Tensor) -> None:
        """Keep the loss of a step, without waiting for it."""
        self._losses.append(loss.detach())

    def losses_of(self, trainer: Any) -> None:
        """Keep the losses and norms of ``trainer``, and count how often its last step waits for the GPU."""
        step, norm = trainer.training_step, trainer._get_grad_norm

        def watched(*args: Any, **kwargs: Any) -> Any:
            last = trainer.state.global_step == trainer.state.max_steps - 1
            if last and self._device.type == "cuda":
                from gpu_sections import warnings_of

                kept: list[Any] = []
                self.found.waits = warnings_of(lambda: kept.append(step(*args, **kwargs)))
                loss = kept[0]
            else:
                loss = step(*args, **kwargs)
            self.see(loss)
            return loss

        def watched_norm(*args: Any, **kwargs: Any) -> Any:
            value = norm(*args, **kwargs)
            self.found.gradient_norms.append(0.0 if value is None else float(value))
            return value

        trainer.training_step, trainer._get_grad_norm = watched, watched_norm

    def callback(self) -> Any:
        """The callback by which a trainer calls `begin` and `end`."""
        from transformers import TrainerCallback

        watch = self

        class Clock(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                watch.begin(state.global_step)

            def on_train_end(self, *args: Any, **kwargs: Any) -> None:
                watch.end()

        return Clock()


def public_loop(
    model: Any,
    samples: list[dict[str, list[int]]],
    steps: int,
    peft_config: Any,
    bf16: bool,
    batch_size: int,
    device: torch.device,
    optimizer: str,
    watch: Watch,
) -> Any:
    """A plain loop, as the paper's code has it: padded batches, eager attention, logits at every position in fp32."""
    from kinject.trainers.collator import padded

    model.set_attn_implementation("eager")
    if peft_config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, peft_config)
    model.to(device).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if optimizer.startswith("adamw_bnb"):
        from bitsandbytes.optim import AdamW8bit

        update: Any = AdamW8bit(weights, lr=1e-4)
    else:
        update = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    for number in range(steps):
        watch.begin(number)
        rows = [samples[(number * batch_size + index) % len(samples)] for index in range(batch_size)]
        longest = max(len(row["input_ids"]) for row in rows)
        ids, mask, labels = (
            torch.as_tensor(padded(values, longest, pad)).to(device)
            for values, pad in (
                ([row["input_ids"] for row in rows], 0),
                ([[1] * len(row["input_ids"]) for row in rows], 0),
                ([row["labels"] for row in rows], -100),
            )
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        shifted = logits.float()[:, :-1].reshape(-1, logits.shape[-1])  # (batch * (length - 1), vocabulary)
        loss = torch.nn.functional.cross_entropy(shifted, labels[:, 1:].reshape(-1), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        update.step()
        update.zero_grad()
        watch.see(loss)
    watch.end()
    return model


def lora() -> Any:
    """The adapter of the comparison: rank 16 on all linear layers."""
    from peft import LoraConfig

    return LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")


def quantize(model: Any) -> None:
    """Turn the linear layers of ``model``, but for the head, into NF4 in place.

    bitsandbytes quantizes while it loads a checkpoint, and one of 8B takes minutes to write.
    """
    import bitsandbytes as bnb

    for module in list(model.model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                device = child.weight.device
                packed = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
                )
                packed.weight = bnb.nn.Params4bit(child.weight.data.cpu(), requires_grad=False, quant_type="nf4")
                setattr(module, name, packed.to(device))
    model.is_loaded_in_4bit = model.is_quantized = True
