"""Settings that all objectives share, and those of the objectives that hide part of the documents.

Every setting is checked before anything is loaded, except those that need the model. Knows nothing of files.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import torch
from transformers.utils import is_liger_kernel_available
from trl import SFTConfig

from kinject.compat import UNUSED, check_processes, liger_refusal, processor_is_fast_in_bf16
from kinject.corruption import MaskUnit, parse_mask_ratio
from kinject.errors import ConfigurationError


def set_deepspeed_rate(config: Any, found: float | str | None, learning_rate: float | str) -> None:
    """Replace the learning rate of optimizer and scheduler in a DeepSpeed configuration, wherever it equals ``found``."""
    for place in ("optimizer.params.lr", "scheduler.params.warmup_max_lr"):
        node, name = config.find_config_node(place)
        if node is not None and name in node and node[name] == found:
            node[name] = learning_rate


def learning_rate_for(parameters: int, adapter: bool, large: float) -> float:
    """The default of the peak learning rate: 1e-4 for an adapter and below a billion parameters, else ``large``."""
    return 1e-4 if adapter or parameters < 1e9 else large


_LOST = 0.1  # a run is refused where this share of the weights, or more, would not move
_SAMPLED = 10_000  # numbers of a tensor that are checked
_KAHAN = "adamw_anyprecision"  # the optimizer of transformers that can carry over what bf16 rounds away


def require_updates(model: torch.nn.Module, args: DocumentSFTConfig) -> None:
    """Refuse to train 16-bit weights that a step of the optimizer would not change, and warn where some of them are such.

    AdamW moves a weight by about the learning rate, while neighboring bf16 numbers differ by 1/256 to 1/128 of their size. A
    weight of .02 that is to move by 5e-6 is therefore rounded back to its old value at every step.

    Args:
        model: A model that is trained in full, without fp32 copies of its weights.
        args: Its settings.

    Raises:
        ConfigurationError: at the peak learning rate a tenth of the weights or more would not move.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad and weight.element_size() == 2]
    if not trained or (args.optim == _KAHAN and "use_kahan_summation=true" in str(args.optim_args).lower()):
        return
    lost = total = 0
    for weight in trained:
        values = weight.detach().flatten()[:: max(1, weight.numel() // _SAMPLED)]
        moved = (values.float() - float(args.learning_rate or 0.0) * values.float().sign()).to(values.dtype)
        lost += int((moved == values).sum()) * weight.numel() // max(1, values.numel())
        total += weight.numel()
    share, kind = lost / max(1, total), str(trained[0].dtype).removeprefix("torch.")
    fault = (
        f"the weights are {kind} and all learn in it: at a learning rate of {args.learning_rate:g} a step of AdamW is rounded "
        f"away in {share:.0%} of them"
    )
    cure = (
        "Load them in fp32, which still computes in bf16 (--dtype float32 --bf16 true); where memory is short train an adapter "
        "(--use_peft true), take 8-bit states (--optim adamw_bnb_8bit), or shard (deepspeed_configs/zero3.yaml)."
    )
    if share >= _LOST:
        raise ConfigurationError(f"{fault}, so that they would not learn. {cure}")
    warnings.warn(f"{fault}, and in more of them as the rate falls. {cure}", stacklevel=2)


@dataclass
class DocumentSFTConfig(SFTConfig):
    """Configuration of [`DocumentSFTTrainer`], on top of [`trl.SFTConfig`].

    Args:
        system_prompt: System message of every prompt. None leaves the chat template's own default in place.
        frozen_modules: Modules whose weights are not learned, by name (see `kinject.models.weights`).
        preserved_rank: Share of the singular values of every matrix that stay as they are (see `kinject.trainers.subspace`).
        train_routers: Whether a mixture of experts also learns the weights by which it chooses experts.
    """

    max_length: int | None = field(
        default=1024,
        metadata={
            "help": "Most tokens in a sample, prompt included. Longer documents are split at sentence ends into several "
            "samples; nothing is cut away."
        },
    )
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Peak learning rate. Default: 1e-4 for adapters and below a billion parameters, else 5e-6, the paper's."
        },
    )
    keep_titles: bool = field(
        default=True,
        metadata={
            "help": "Put the title of a document (the row's 'title') before its text where that does not name it, and title "
            "and headings before each piece of a document that is split: a text that only says 'it' cannot be learned backward."
        },
    )
    packing: bool = field(
        default=False,
        metadata={
            "help": "Put the documents of a batch into one row, without padding; each attends to itself alone. The steps stay "
            "the same. Needs FlashAttention, or flex attention on a GPU (--attn_implementation). padding_free is the same."
        },
    )
    dataloader_num_workers: int | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Processes that draw masks and make batches ahead of training. Default: 1 beside a GPU, else 0."
        },
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            "help": "Leave losses that are nan or infinite out of the log. A run stops at the first of them in any case."
        },
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message of every prompt. Default: the chat template's own."}
    )
    anchor: float = field(
        default=0.0,
        metadata={
            "help": "Against forgetting: weight of a second loss, by which the predictions of all tokens but the right one "
            "stay those of the untrained model; 0: none. Takes another forward pass, and without an adapter a copy of the "
            "weights."
        },
    )
    frozen_modules: list[str] | None = field(
        default=None,
        metadata={
            "help": "Modules whose weights stay as they are while all others learn: attention (that of every layer, whatever "
            "the model calls it), or names such as mlp, embed_tokens or layers.0. Not with adapters, which freeze the whole "
            "model."
        },
    )
    preserved_rank: float = field(
        default=0.0,
        metadata={
            "help": "Against forgetting: share of the singular values of every matrix, from the largest down, that stay as "
            "they are with their vectors while the rest learns (arXiv 2504.07097); embeddings, norms and biases stay as they "
            "are, too. 0: everything learns. Takes a larger learning rate. Not with adapters, DeepSpeed or FSDP."
        },
    )
    train_routers: bool = field(
        default=False,
        metadata={
            "help": "Whether a mixture of experts also learns which experts a token goes to. By default its routers are "
            "frozen, since a few documents could lead them to send all tokens to a few experts."
        },
    )

    def __post_init__(self) -> None:
        """Refuse too few processes, choose the precision that the processor is fast in, set what packing needs."""
        check_processes()
        self._require_effect()
        if not 0 <= self.preserved_rank < 1:
            raise ConfigurationError(
                f"preserved_rank is {self.preserved_rank}; expected a share of at least 0 (everything learns) and below 1."
            )
        # Without this, bf16 is refused on the processor.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.bf16 is None and not self.fp16 and self.use_cpu:
            self.bf16 = processor_is_fast_in_bf16()  # trl's default is bf16
        if self.include_num_input_tokens_seen in (False, "no"):
            self.include_num_input_tokens_seen = "non_padding"  # results.json has the tokens up to every evaluation
        if self.dataloader_num_workers is None:
            self.dataloader_num_workers = 0 if self.use_cpu else 1
            self.dataloader_persistent_workers = not self.use_cpu
        if self.use_liger_kernel and (self.use_cpu or not is_liger_kernel_available()):
            raise ConfigurationError(liger_refusal(on_cpu=self.use_cpu))
        super().__post_init__()
        if self.deepspeed and self.learning_rate is None:
            # The default depends on the model, which is not known yet; transformers has put None where the file says "auto".
            set_deepspeed_rate(self.hf_deepspeed_config, None, "auto")
        if self.packing or self.padding_free:
            # Both mean the same here. trl allows a max_length only beside this strategy, though nothing is cut at it here.
            self.packing, self.padding_free, self.packing_strategy = True, True, "bfd"
            self.include_num_input_tokens_seen = "all"  # there is no padding to leave out
        self._require_trackers()

    def require_choices(self, **choices: tuple[str, ...]) -> None:
        """Refuse a setting whose value is not among its ``choices``.

        Raises:
            ConfigurationError: there is one.
        """
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigurationError(f"{name} is '{getattr(self, name)}'; expected one of {', '.join(known)}.")

    def _require_effect(self) -> None:
        """Refuse settings of the libraries that have no effect in these trainers.

        Raises:
            ConfigurationError: there is one.
        """
        for each in fields(self):
            if each.name in UNUSED and getattr(self, each.name) != each.default:
                raise ConfigurationError(
                    f"{each.name} is {getattr(self, each.name)!r}, and would have no effect: {UNUSED[each.name]}"
                )

    def _require_trackers(self) -> None:
        """Refuse trackers that cannot run, as transformers does only after the model is loaded.

        Raises:
            ConfigurationError: there is one.
        """
        from transformers.integrations.integration_utils import get_reporting_integration_callbacks

        try:
            for tracker in get_reporting_integration_callbacks(self.report_to):
                tracker()
        except (ImportError, RuntimeError, ValueError) as error:
            raise ConfigurationError(
                f"report_to: {error} pip install 'kinject[trackers]' brings tensorboard, trackio and wandb; --report_to none "
                "does without."
            ) from error


# Settings of the objectives that hide part of the documents.

RatioScope = Literal["sample", "batch"]


@dataclass
class CorruptionSFTConfig(DocumentSFTConfig):
    """Settings that the masked and the diffusion objective share: how much is hidden, and which tokens together."""

    mask_ratio: str = field(
        default="uniform(0.05, 0.95)",
        metadata={
            "help": "Law of the mask ratio: uniform(low, high), fixed(value), linear(start, end) over training, or "
            "stratified(low, high): the ratios of each document are spread evenly over its epochs."
        },
    )
    mask_ratio_per: str = field(
        default="sample",
        metadata={
            "help": "One ratio for each 'sample', or one for the whole 'batch' as in the paper.",
            "choices": ["sample", "batch"],
        },
    )
    mask_unit: str = field(
        default="token",
        metadata={
            "help": "What is hidden together: 'token', 'word', 'entity' (whole words, and whole names, dates and amounts: the "
            "row's 'entities', or else found by rule), 'span' (one contiguous stretch), or 'mixed' (half of the samples "
            "tokens, half of them a span).",
            "choices": ["token", "word", "entity", "span", "mixed"],
        },
    )

    def __post_init__(self) -> None:
        """Refuse unknown choices and ratios out of range before anything is loaded."""
        super().__post_init__()
        parse_mask_ratio(self.mask_ratio)
        self.require_choices(mask_ratio_per=get_args(RatioScope), mask_unit=get_args(MaskUnit))


def objective_name(training_args: DocumentSFTConfig) -> str:
    """The name of the objective that ``training_args`` are settings of, as in `results.json`."""
    corruption = getattr(training_args, "corruption", None)
    if corruption is None:
        return str(getattr(training_args, "objective", "ar"))
    return {"mask": "masked", "random": "random_token"}[corruption]
