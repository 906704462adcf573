"""What all rows of a batch begin with, such as a system prompt, encoded once."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    pass


# == What a run is started on and in: processes, devices, and the directory that it writes to.

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of torchrun and MPI
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def check_processes() -> None:
    """Refuse to train alone where `accelerate launch` was asked for more processes.

    For `--cpu` and `distributed_type: MULTI_CPU` on one machine it prepares an address for several processes, and starts
    a single one that belongs to no group.

    Raises:
        ConfigurationError: so it is.
    """
    asked = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ
    if asked and not any(name in os.environ for name in _SIZES):
        raise ConfigurationError(
            "accelerate was told to start several processes, and started one: it does so for --cpu and for distributed_type "
            "MULTI_CPU. Launch with --config_file deepspeed_configs/cpu/ddp.yaml (MULTI_GPU with use_cpu), or with "
            "torchrun; for one process say --num_processes 1."
        )


def is_first_process() -> bool:
    """Whether this process is the one of a run that writes files and speaks, as far as the launcher has said."""
    ranks = [os.environ[name] for name in _RANKS if name in os.environ]
    return not ranks or int(ranks[0]) <= 0


def check_devices(count: int) -> None:
    """Refuse ``count`` GPUs in one process: the trainers support one, or one a process.

    Raises:
        ConfigurationError: there are more.
    """
    if count > 1:
        ours = Path(sys.argv[0]).stem in ("kinject", "__main__")
        again = shlex.join(["-m", "kinject", *sys.argv[1:]] if ours else sys.argv)
        raise ConfigurationError(
            f"this process sees {count} GPUs, and trains on one. For all of them launch a process each: accelerate launch "
            f"--num_processes {count} {again}. For one, set CUDA_VISIBLE_DEVICES=0."
        )


def processor_is_fast_in_bf16() -> bool:
    """Whether the processor has instructions for bf16; others emulate it at a fraction of fp32's speed."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


# The directory that a run writes to.


def encode_beginning(model: Any, ids: torch.Tensor) -> DynamicCache | None:
    """Keys and values of a beginning.

    Args:
        model: A causal language model, or its backbone.
        ids: `(1, length)`.

    Returns:
        Them, with gradient where it is on, or `None` where the model keeps anything else than keys and values of every
        token.
    """
    cache = model(input_ids=ids, use_cache=True).get("past_key_values")
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    return cache


_PREPARED = "documents are prepared by kinject, whose masks change every epoch"


_ANSWERS = "every document token is learned, and of a question with its answer the answer"


UNUSED = {
    "assistant_only_loss": f"{_ANSWERS}; leave it out.",
    "completion_only_loss": f"{_ANSWERS}; leave it out.",
    "dataset_kwargs": f"{_PREPARED}; leave it out.",
    "dataset_num_proc": f"{_PREPARED}, in one process; --dataloader_num_workers makes batches ahead.",
    "eval_packing": "evaluation rows are packed as those of training are: set --packing.",
    "length_column_name": "lengths are counted by kinject; leave it out.",
    "packing_strategy": "packing puts the documents of a batch into one row and cuts none; set --packing alone.",
    "remove_unused_columns": f"{_PREPARED}, and no other columns are kept; leave it out.",
    "truncation_mode": "nothing is cut away: longer documents are split at sentence ends (--max_length).",
}
"""Settings of the libraries that kinject's trainers do without, and why."""


_ASKED = "no loss on held-out rows is computed here, questions are asked: see --questions, --evaluations and --evaluate_every."


_KEPT = "which weights are kept is said by --select_on, which goes by the answers."


_ALWAYS = "kinject inject always trains and then asks; leave it out."


UNUSED_IN_RUNS = {
    "bf16_full_eval": _ASKED,
    "batch_eval_metrics": _ASKED,
    "dataset_text_field": "documents are read into the field text; name theirs with --text_field.",
    "do_eval": _ALWAYS,
    "do_predict": _ALWAYS,
    "do_train": _ALWAYS,
    "eval_accumulation_steps": _ASKED,
    "eval_delay": _ASKED,
    "eval_do_concat_batches": _ASKED,
    "eval_on_start": _ASKED,
    "eval_steps": _ASKED,
    "eval_strategy": _ASKED,
    "eval_use_gather_object": _ASKED,
    "fp16_full_eval": _ASKED,
    "greater_is_better": _KEPT,
    "include_for_metrics": _ASKED,
    "label_names": _ASKED,
    "load_best_model_at_end": _KEPT,
    "metric_for_best_model": _KEPT,
    "per_device_eval_batch_size": "how many questions are asked at once is said by --question_batch_size.",
    "prediction_loss_only": _ASKED,
}
"""Settings that do something only where the trainers are given evaluation rows, as `inject` never does, and why."""


_ADAPTER = ("use_peft", (None, False), "it describes the adapter that --use_peft trains")


_FOUR_BITS = ("load_in_4bit", (None, False), "it describes the 4-bit weights of --load_in_4bit")


_INFILLING = ("infill_share", (None, 0), "it describes the samples of --infill_share above 0")


NEEDED = {
    **dict.fromkeys(
        ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters"), _ADAPTER
    ),
    **dict.fromkeys(("lora_modules_to_save", "lora_task_type", "use_rslora", "use_dora"), _ADAPTER),
    **dict.fromkeys(("bnb_4bit_quant_type", "bnb_4bit_quant_storage", "use_bnb_nested_quant"), _FOUR_BITS),
    **dict.fromkeys(("infill_unit", "infill_masks", "infill_ratio"), _INFILLING),
    "fsdp_config": ("fsdp", (None, ""), "it describes --fsdp"),
    "liger_kernel_config": ("use_liger_kernel", (None, False), "it describes --use_liger_kernel"),
    "rehearsal_answers": ("rehearsal", (None, 0), "it describes --rehearsal above 0"),
    "shifted_logits": ("to_diffusion", (None, False), "it describes how --to_diffusion turns a model"),
    "mask_token": ("corruption", ("random", "keep"), "no mask token is shown without --corruption mask"),
}
"""Settings that do something beside another only: which, the values of it under which they do nothing, and why."""
