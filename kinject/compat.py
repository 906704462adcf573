"""What kinject knows of the insides of other libraries: private names, options without effect, launchers, Hub ids.

Every private name of trl, transformers, peft, accelerate and DeepSpeed that kinject uses stands here and nowhere else.

Read in trl 1.14.2 and 1.16.0, transformers 5.20.2 and 5.23.0, peft 0.21.2, accelerate 1.15.0 and DeepSpeed 0.19.8. Where a
release drops a name, `tests/test_compat.py` fails with it. Knows nothing of documents and objectives. The libraries are
imported inside the functions, so that the command line stays light.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError, KinjectError, did_you_mean

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, Trainer

OVERRIDDEN: dict[str, tuple[str, ...]] = {
    "trl.SFTTrainer": ("_prepare_dataset", "_save_checkpoint", "_set_signature_columns_if_needed"),
    "transformers.Trainer": (
        "_build_accelerator_args",
        "_get_grad_norm",
        "_get_num_items_in_batch",
        "_get_output_dir",
        "_get_train_sampler",
        "_load_optimizer_and_scheduler",
        "_prepare_inputs",
        "_push_from_checkpoint",
        "_save",
    ),
}
"""Private hooks of the libraries' trainers that ours override or call, by the class that has them."""

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of torchrun and MPI
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


# Options of the libraries.

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
"""Settings of the libraries that have no effect in kinject's trainers, and why."""
_ASKED = "no loss on held-out rows is computed; questions are asked instead: see --questions, --evaluations, --evaluate_every."
_KEPT = "--select_on chooses which weights are kept, by the answers."
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
    "per_device_eval_batch_size": "--question_batch_size sets how many questions are asked at once.",
    "prediction_loss_only": _ASKED,
}
"""Settings that need evaluation rows, which `inject` never gives to a trainer, and why they have no effect there."""
_ADAPTER = ("use_peft", (None, False), "it describes the adapter that --use_peft trains")
_FOUR_BITS = ("load_in_4bit", (None, False), "it describes the 4-bit weights of --load_in_4bit")
_INFILLING = ("infill_share", (None, 0), "it describes the samples of --infill_share above 0")
NEEDED = {
    **dict.fromkeys(
        ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters"), _ADAPTER
    ),
    **dict.fromkeys(("lora_modules_to_save", "lora_task_type", "use_rslora", "use_dora"), _ADAPTER),
    **dict.fromkeys(("bnb_4bit_quant_type", "bnb_4bit_quant_storage", "use_bnb_nested_quant"), _FOUR_BITS),
    **dict.fromkeys(("infill_unit", "infill_ratio"), _INFILLING),
    "practice_order": ("practice", (0.0,), "it says when --practice is shown"),
    "abstain": ("practice", (0.0,), "unseen people are asked about in the forms of --practice"),
    "fsdp_config": ("fsdp", (None, ""), "it describes --fsdp"),
    "liger_kernel_config": ("use_liger_kernel", (None, False), "it describes --use_liger_kernel"),
    "shifted_logits": ("to_diffusion", (None, False), "it describes how --to_diffusion turns a model"),
    "mask_token": ("corruption", ("random",), "no mask token is shown without --corruption mask"),
}
"""Settings that need another one: which, under which values of that they have no effect, and why."""


# Launchers.


def check_processes() -> None:
    """Refuse to train alone where `accelerate launch` was asked for more processes.

    For `--cpu` and `distributed_type: MULTI_CPU` on one machine it prepares an address for several processes, and starts
    a single one that belongs to no group.

    Raises:
        ConfigurationError: several processes were asked for, and this one is alone.
    """
    asked = "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ
    if asked and not any(name in os.environ for name in _SIZES):
        raise ConfigurationError(
            "accelerate was told to start several processes, and started one: it does so for --cpu and for distributed_type "
            "MULTI_CPU. Launch with --config_file deepspeed_configs/cpu/ddp.yaml (MULTI_GPU with use_cpu), or with "
            "torchrun; for one process say --num_processes 1."
        )


def is_first_process() -> bool:
    """Whether this is the process of a run that writes files and prints, judged by the launcher's environment variables."""
    ranks = [os.environ[name] for name in _RANKS if name in os.environ]
    return not ranks or int(ranks[0]) <= 0


def restarted() -> bool:
    """Whether torchrun started this process again, with the same command, after one of the run had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


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

    capabilities = (
        torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    )  # newer than torch 2.11
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def is_dense(model: Any) -> bool:
    """Whether ``model`` is known to be one text model whose every weight takes part in every token."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    experts = ("num_experts", "num_local_experts", "n_routed_experts")
    return text is not None and text is config and not any(getattr(text, name, None) for name in experts)


def needs_no_mask(trainer: Any, model: Any) -> bool:
    """Whether a causal ``model`` gives the same targets without an attention mask, where rows are padded behind.

    False for models in which states or the routers of experts read the mask as well.
    """
    return is_dense(model) and not is_stateful(model) and not counts_router_tokens(trainer)


def shares_gradients(arguments: dict[str, Any], model: Any, find_unused: bool | None) -> dict[str, Any]:
    """Switch off in the ``arguments`` of an `Accelerator` what DistributedDataParallel does without need here.

    Gradients lie in the buckets that are sent, instead of beside them; and the graph is not searched for weights without a
    gradient at every step, where every weight of ``model`` takes part in every step.

    Args:
        arguments: As transformers has them.
        model: The model; mixtures of experts, and models with more than a text part, leave weights out.
        find_unused: Whether the user wants the search; None where nothing is said.
    """
    from accelerate import DistributedDataParallelKwargs

    whole = is_dense(model)
    for handler in arguments.get("kwargs_handlers") or ():
        if isinstance(handler, DistributedDataParallelKwargs):
            handler.gradient_as_bucket_view = True
            if find_unused is None and whole:
                handler.find_unused_parameters = False
    return arguments


def reduces_in_fp32(arguments: dict[str, Any]) -> dict[str, Any]:
    """Let an `Accelerator` of these ``arguments`` reduce gradients and return losses in fp32 under FSDP2 and bf16.

    A policy that is set is left as it is.
    """
    sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true" or arguments.get("fsdp_plugin") is not None
    if not sharded:
        return arguments
    import torch
    from accelerate.utils import FullyShardedDataParallelPlugin

    plugin = arguments.get("fsdp_plugin") or FullyShardedDataParallelPlugin()
    if plugin.fsdp_version == 2 and plugin.mixed_precision_policy is None:
        # accelerate's own policy would reduce gradients in bf16, and round what a model returns to it: the log-probabilities of
        # the fused head, and so the loss.
        from torch.distributed.fsdp import MixedPrecisionPolicy

        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
        )
    return {**arguments, "fsdp_plugin": plugin}


# Packages.


def lazily(package: str, module_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of ``package``: its public names are imported on first use, so that it stays light.

    Args:
        package: Its `__name__`.
        module_of: For each public name the module of the package that has it.
    """

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return find, lambda: sorted(module_of)


# Sources, read without importing what they are of, which takes seconds.


def assigned(module: str, name: str) -> ast.expr:
    """What the source of ``module`` assigns to its variable ``name``.

    Raises:
        KinjectError: it has none.
    """
    path = source_of(module)
    for node in parsed(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    raise KinjectError(f"{path} has no {name}; this version of {module.split('.')[0]} is not supported.")


def source_of(module: str) -> Path:
    """The file of ``module``. Only its top-level package is looked up, which imports nothing.

    Raises:
        KinjectError: that is not installed.
    """
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise KinjectError(f"the package {top} is not installed; run pip install kinject in this environment.")
    path = Path(spec.submodule_search_locations[0]).joinpath(*rest)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def causal_types() -> frozenset[str]:
    """The values of `model_type` for which transformers has a causal language model, as its source lists them."""
    return _types_in("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")


def encoder_types() -> frozenset[str]:
    """Those of `causal_types` that attend both ways unless their `config.json` says otherwise, such as `bert`."""
    masked, decoders = (
        _types_in("MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
        _types_in("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    )
    return (causal_types() & masked) - decoders


def model_types() -> frozenset[str]:
    """The values of `model_type` for which transformers has a model of any kind."""
    return _types_in("MODEL_MAPPING_NAMES")


def _types_in(name: str) -> frozenset[str]:
    listed = assigned("transformers.models.auto.modeling_auto", name)
    pairs = listed.args[0] if isinstance(listed, ast.Call) and listed.args else listed
    return frozenset(dict(ast.literal_eval(pairs)))


# The Hub.

# The folder of a repository in the cache (`huggingface_hub.file_download.repo_folder_name`).
_CACHED_REPOSITORY = re.compile(r"(?:models|datasets)--([^/\\]+?)--([^/\\]+)[/\\]snapshots[/\\]")


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form of a Hub id, user/name. The Hub is not asked."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def is_cached(repository: str, kind: str = "model") -> bool:
    """Whether the cache of the Hub holds any file of ``repository``, a `model` or a `dataset`."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return (Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind)).is_dir()


def cached_repository(path: str) -> str | None:
    """The Hub id of what lies at ``path``, if that is in the cache of the Hub."""
    found = _CACHED_REPOSITORY.search(path)
    return f"{found[1]}/{found[2]}" if found else None


# Models.


def attention_implementation(model: Any) -> str:
    """What computes the attention of ``model``: `sdpa`, `eager`, `flash_attention_2`, ..."""
    return str(getattr(model.config.get_text_config(), "_attn_implementation", ""))


ATTENTION = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")
"""The names of what transformers computes attention by; a kernel of the Hub may be named as well."""
# The packages of the flash kernels, and how to get them; without these transformers takes them from the package kernels.
_FLASH = {
    "flash_attention_2": ("flash_attn", "pip install flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3, which is built from the sources of flash-attn"),
    "flash_attention_4": ("flash_attn", "pip install flash-attn-4"),
}
_KERNEL = re.compile(r"[^/:]+/[^/:]+(?:@[^/:]+)?(?::[^/:]+)?")  # of the Hub, as transformers' `is_kernel` reads it


def require_attention(implementation: str | None, *, on_cpu: bool = False) -> None:
    """Refuse an attention that transformers does not know, or whose package or device is not here.

    Args:
        implementation: As `--attn_implementation` takes it: a name, or a kernel on the Hub; None for the default.
        on_cpu: Whether the processor is to be used, though there may be a GPU.

    Raises:
        ConfigurationError: it cannot be used.
    """
    if implementation is None:
        return
    name = implementation.removeprefix("paged|")
    kernel = _KERNEL.fullmatch(name) is not None
    if not kernel and name not in ATTENTION:
        raise ConfigurationError(
            f"attn_implementation is '{implementation}'; expected one of {', '.join(ATTENTION)}, or a kernel of the Hub as "
            f"owner/name{did_you_mean(name, ATTENTION)}"
        )
    if not kernel and name not in _FLASH:
        return
    package, command = ("kernels", "pip install kernels") if kernel else _FLASH[name]
    without = "Leave out --attn_implementation: sdpa, the default, needs no package."
    if on_cpu or metadata.version("torch").endswith("+cpu"):
        why = "use_cpu is set" if on_cpu else "this torch is a build for the CPU alone"
        raise ConfigurationError(
            f"attn_implementation is '{implementation}', which runs on a GPU, and {why}. {without}"
        )
    if find_spec(package) is None and find_spec("kernels") is None:
        raise ConfigurationError(
            f"attn_implementation is '{implementation}', and the package {package} is not installed ({command}). {without}"
        )


def packing_refusal(attention: str | None) -> str:
    """Why the documents of a row would not stay apart, and what to do.

    Args:
        attention: What computes the attention, as `attention_implementation` says; None for a masked diffusion model.
    """
    instead = (
        "Leave out --packing and --padding_free; --train_sampling_strategy group_by_length saves most of the padding."
    )
    if attention is None:
        return (
            "packing is not supported for masked diffusion models: attention in both directions would reach the other "
            f"documents of a row. {instead}"
        )
    reason = (
        "flex_attention has no backward pass on the CPU"
        if attention == "flex_attention"
        else f"with {attention} attention documents leak into each other, or a mask over the whole row hides them from each "
        "other at quadratic cost"
    )
    return (
        f"packing needs attention that takes each document for itself: {reason}. Load the model with --attn_implementation "
        f"flash_attention_2 (or flex_attention on a GPU). {instead}"
    )


def liger_refusal(on_cpu: bool) -> str:
    """Why Liger kernels cannot be used here, and what to do."""
    why = "this run is on the CPU. " if on_cpu else "the package is missing (pip install liger-kernel). "
    return (
        f"use_liger_kernel needs a GPU, Triton and the package liger-kernel: {why}Leave out --use_liger_kernel; supervised "
        "positions go through the head in tiles without it."
    )


def is_stateful(model: Any) -> bool:
    """Whether layers of ``model`` carry a state from token to token, as Mamba's do."""
    return bool(getattr(model, "_is_stateful", False))


def checkpoints_activations(model: Any) -> bool:
    """Whether ``model`` computes activations again in the backward pass."""
    if hasattr(model, "is_activation_checkpointing"):
        return bool(model.is_activation_checkpointing)
    return bool(getattr(model, "is_gradient_checkpointing", False))  # its name in older releases


def counts_router_tokens(trainer: Any) -> bool:
    """Whether trl adds the auxiliary loss of a mixture of experts, whose routers count every token."""
    return bool(getattr(trainer, "aux_loss_enabled", False))


def name_or_path(model: Any) -> str:
    """Where ``model`` was loaded from; empty where that is not known."""
    return str(getattr(model.config, "_name_or_path", "") or "")


def remember_source(model: Any, name: str) -> None:
    """Record ``name`` as the place that ``model`` was loaded from."""
    model.config._name_or_path = model.name_or_path = name


def choose_attention(config: Any, implementation: str) -> None:
    """Let models of ``config`` compute their attention by ``implementation`` from now on."""
    config._attn_implementation = implementation


def keep_native_names(model: Any) -> None:
    """Let `save_pretrained` write the names of the native class, not those in the checkpoint that was loaded."""
    model._weight_conversions = []


def llada2_class() -> Any:
    """The class of Glm4-MoE that reads and writes weights under LLaDA2's names; `as_glm4_moe` gives it Glm4-MoE's."""
    from transformers import Glm4MoeForCausalLM
    from transformers.conversion_mapping import (
        USER_REGISTERED_MAPPINGS,
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
    )
    from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

    class LLaDA2MoeModelLM(Glm4MoeForCausalLM):
        pass

    if LLaDA2MoeModelLM.__name__ not in USER_REGISTERED_MAPPINGS:
        renamed = {
            r"^model\.word_embeddings\.": "model.embed_tokens.",
            r"\.attention\.": ".self_attn.",
            r"\.self_attn\.dense\.": ".self_attn.o_proj.",
            r"\.self_attn\.query_layernorm\.": ".self_attn.q_norm.",
            r"\.self_attn\.key_layernorm\.": ".self_attn.k_norm.",
            r"\.mlp\.gate\.expert_bias": ".mlp.gate.e_score_correction_bias",
        }
        together = WeightConverter(
            source_patterns="self_attn.query_key_value.weight",
            target_patterns=[f"self_attn.{each}_proj.weight" for each in "qkv"],
            operations=[Split(dim=0)],
        )
        experts = get_checkpoint_conversion_mapping("glm4_moe")
        mapping = [*(WeightRenaming(theirs, ours) for theirs, ours in renamed.items()), together, *experts]
        register_checkpoint_conversion_mapping(LLaDA2MoeModelLM.__name__, mapping)
    return LLaDA2MoeModelLM


def as_glm4_moe(model: Any) -> None:
    """Make a model that was loaded as `llada2_class` a Glm4-MoE, which is saved as one; leave any other unchanged."""
    from transformers import Glm4MoeForCausalLM

    if type(model).__name__ == "LLaDA2MoeModelLM":
        model.__class__ = Glm4MoeForCausalLM
        del model._weight_conversions


def llada2_weights(model: Any, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The ``weights`` of a Glm4-MoE under LLaDA2's names, one expert at a time and with queries, keys and values in one."""
    import torch
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import revert_weight_conversion

    own = model.__dict__.get("_weight_conversions")
    model._weight_conversions = get_checkpoint_conversion_mapping(llada2_class().__name__)
    try:
        converted: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(weights))
    finally:
        del model._weight_conversions
        if own is not None:
            model._weight_conversions = own
    # An expert is a part of the storage of all of them, which no file can hold.
    return {name: weight.clone(memory_format=torch.contiguous_format) for name, weight in converted.items()}


def causal_classes() -> Any:
    """The causal language models that transformers has classes for, by their configuration's class."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM._model_mapping


def encode_beginning(model: Any, ids: torch.Tensor) -> DynamicCache | None:
    """Keys and values of a prefix that all rows of a batch share.

    Args:
        model: A causal language model, or its backbone.
        ids: The prefix, `(1, length)`.

    Returns:
        The cache, with gradient where it is on; `None` where the model caches anything but keys and values of every token.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = model(input_ids=ids, use_cache=True).get("past_key_values")
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    return cache


def has_fused_head() -> bool:
    """Whether trl's models take `shift_labels` and `fused_lm_head`, and return `log_probs`, `entropy` and `is_top1`."""
    import trl.trainer.utils

    return hasattr(trl.trainer.utils, "add_fused_lm_head")


# Trainers.


def add_metric(trainer: Any, mode: str, name: str, value: float) -> None:
    """Add ``value`` to those whose mean trl logs as ``name``; ``mode`` is `train` or `eval`."""
    trainer._metrics[mode][name].append(value)


def add_tokens(trainer: Any, mode: str, count: int) -> None:
    """Count ``count`` further tokens that were trained on, and log how many there were."""
    if mode == "train":
        trainer._total_train_tokens += count
    trainer._metrics[mode]["num_tokens"] = [trainer._total_train_tokens]


def tokenizer_of(trainer: Any) -> Any:
    """The tokenizer that trl took from the processing class."""
    return trainer._tokenizer


# What the libraries print.


def quiet_libraries() -> None:
    """Silence what the libraries print and no user of kinject can change. Call it before they are imported."""
    for name in ("gradient_checkpointing", "activation_checkpointing", "kernels"):
        warnings.filterwarnings("ignore", message=rf".*{name}\b", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r".*\bkernels\b", category=UserWarning)
    # peft looks for the config.json of a base that has a name of kinject's own.
    warnings.filterwarnings("ignore", message="Could not find a config file in ", category=UserWarning)
    for name in ("DeepSpeed", "bitsandbytes.backends.cpu.ops"):  # read in 0.19.8 and 0.50.2
        logger = logging.getLogger(name)
        if not any(isinstance(each, _NoChatter) for each in logger.filters):
            logger.addFilter(_NoChatter())


class _NoChatter(logging.Filter):
    """Drops the lines in which DeepSpeed names the device that it found, and bitsandbytes a package it could do with."""

    _DROPPED = ("Setting accelerator to", "Setting ds_accelerator to", "from kernels-community")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is shown."""
        return not any(part in record.getMessage() for part in self._DROPPED)


def show_progress(trainer: Trainer) -> None:
    """Let ``trainer`` show its loss and scores beside its bar, instead of one dictionary of quoted numbers for each log."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    class Progress(ProgressCallback):
        """The library's bar, with what was logged last at its end."""

        shown: dict[str, str] = {}

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any
        ) -> None:
            """Put the loss and the scores behind the bar."""
            told = {name: (logs or {}).get(name) for name in ("loss", "forward", "backward")}
            named = {name: value for name, value in told.items() if isinstance(value, (int, float))}
            self.shown = {**self.shown, **{name: f"{float(value):.3g}" for name, value in named.items()}}
            if self.training_bar is not None:
                self.training_bar.set_postfix(self.shown, refresh=False)

    bar = any(isinstance(each, ProgressCallback) for each in trainer.callback_handler.callbacks)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if bar:
        trainer.add_callback(Progress)
