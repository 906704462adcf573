"""How far training moves a model in the end: what it changed in the weights, times a factor.

Below 1 the weights go back towards the untrained ones, which keeps more of what was known (WiSE-FT, Wortsman et al. 2022,
arXiv 2109.01903); above 1 they go on in the same direction (Zheng et al. 2024, arXiv 2404.16792), which makes up for what
rehearsal holds back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from kinject.errors import ConfigurationError
from kinject.evaluation.gathering import is_fsdp, writable

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments

_DONE = "kinject_update_scaled"  # in the trainer's state, which is saved with every checkpoint


class UpdateScaling(TrainerCallback):
    """After the last step, makes every learned weight `untrained + scale * (trained - untrained)`, once.

    Of a LoRA adapter, whose change is `B A`, it multiplies B. It has to stand before callbacks that ask or save.

    Args:
        model: The model before training, and before a checkpoint is loaded into it. The weights that learn are copied to
            the memory of the host, in every process.
        scale: What the change is multiplied by.

    Raises:
        ConfigurationError: an adapter that is not plain LoRA, or that was trained already.
    """

    def __init__(self, model: nn.Module, scale: float) -> None:
        self._scale = scale
        self._untrained: dict[str, torch.Tensor] = {}
        learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        adapted = hasattr(model, "peft_config")
        for name, weight in learned.items():
            if adapted and ".lora_" not in name or "lora_magnitude" in name:
                raise ConfigurationError(
                    f"update_scale is {scale}, and '{name}' learns beside or in an adapter of another kind than plain LoRA. "
                    "Leave out update_scale, or use_dora and lora_modules_to_save."
                )
            if adapted and ".lora_B." not in name and ".lora_embedding_B." not in name:
                continue
            with writable([weight]):
                untrained = weight.detach().to("cpu", copy=True)
            if adapted and untrained.any():
                raise ConfigurationError(
                    f"update_scale is {scale}, and the adapter starts from weights that are not zero ('{name}'), beside which "
                    "its change cannot be told from what it held. Start a new adapter, or leave out update_scale."
                )
            self._untrained[name] = untrained

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse FSDP, whose weights are neither whole nor gathered one by one."""
        if is_fsdp(kwargs["model"]):
            raise ConfigurationError(
                f"update_scale is {self._scale}, which cannot be applied to weights that FSDP has sharded. Leave it out, or "
                "launch with deepspeed_configs/ddp.yaml or zero3.yaml."
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Scale after the last step, before its weights are asked, evaluated or saved."""
        if state.global_step >= state.max_steps:
            self._apply(kwargs["model"], state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Scale what another callback stopped before its last step."""
        self._apply(kwargs["model"], state)

    @torch.no_grad()
    def _apply(self, model: nn.Module, state: TrainerState) -> None:
        saved: Any = state.stateful_callbacks
        if saved.get(_DONE):  # a run that goes on from its last checkpoint
            return
        weights = dict(model.named_parameters())
        for name, untrained in self._untrained.items():
            _scale(weights[name], untrained, self._scale)
        saved[_DONE] = True


def _scale(weight: nn.Parameter, untrained: torch.Tensor, scale: float) -> None:
    """Move one weight, and the copy in full precision that DeepSpeed's optimizer has of it."""
    master = None
    if hasattr(weight, "ds_id") or hasattr(weight, "_hp_mapping"):  # the mapping is None where another process has it
        from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

        master = safe_get_full_fp32_param(weight)
    with writable([weight]):
        trained = weight.detach() if master is None else master
        moved = torch.lerp(untrained.to(trained), trained, scale)
        weight.copy_(moved)
    if master is not None:
        safe_set_full_fp32_param(weight, moved)
