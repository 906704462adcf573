"""What training needs where DeepSpeed or FSDP shards the model over processes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from kinject.trainers.checkpointing import last_whole_checkpoint, needs_conversion, to_universal, universal_folder
from kinject.trainers.hub_hooks import CardWritingTrainer

_EXACT = ("mask_ratio", "predicted_log_probs")


class ShardedTrainer(CardWritingTrainer):
    """Reduces gradients in fp32, keeps loss weights exact, and resumes DeepSpeed runs on any number of processes."""

    _weight_decays: list[float]

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        arguments = super()._build_accelerator_args(**kwargs)
        sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true" or arguments.get("fsdp_plugin") is not None
        if sharded and self.args.bf16:
            from accelerate.utils import FullyShardedDataParallelPlugin

            plugin = arguments.get("fsdp_plugin") or FullyShardedDataParallelPlugin()
            if plugin.fsdp_version == 2 and plugin.mixed_precision_policy is None:
                # accelerate's own policy would reduce gradients in bf16.
                from torch.distributed.fsdp import MixedPrecisionPolicy

                plugin.mixed_precision_policy = MixedPrecisionPolicy(
                    param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.bfloat16
                )
            arguments["fsdp_plugin"] = plugin
        return arguments

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move ``inputs`` to the device; what the loss is computed with is not rounded to DeepSpeed's bf16."""
        exact = {name: inputs[name].to(self.args.device) for name in _EXACT if name in inputs}
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return prepared | exact

    # A checkpoint of DeepSpeed holds the optimizer's states in as many slices as there were processes.

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the library's, and a DeepSpeed checkpoint may come from another number of processes.

        Args:
            resume_from_checkpoint: A checkpoint, or whether to take the last whole one in `output_dir`.
            args, kwargs: Passed on to [`transformers.Trainer.train`].
        """
        checkpoint = resume_from_checkpoint
        if checkpoint is True:
            checkpoint = last_whole_checkpoint(str(self.args.output_dir))
        if isinstance(checkpoint, str) and self.is_deepspeed_enabled:
            config = self.accelerator.state.deepspeed_plugin.deepspeed_config
            config.pop("checkpoint", None)
            if needs_conversion(checkpoint, self.args.world_size):
                if self.is_world_process_zero():
                    to_universal(checkpoint)
                self.accelerator.wait_for_everyone()
                config["checkpoint"] = {"load_universal": True}
        return super().train(checkpoint, *args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's; remembers which parameters decay."""
        optimizer: Any = super().create_optimizer(*args, **kwargs)
        self._weight_decays = [group["weight_decay"] for group in optimizer.param_groups if group["params"]]
        return optimizer

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or universal_folder(checkpoint) is None:
            return
        # Loading a universal checkpoint under ZeRO-3 gives every group the settings of the first, and all one counter of
        # steps, which each would then advance.
        optimizer: Any = self.optimizer
        for group, weight_decay in zip(optimizer.param_groups, self._weight_decays, strict=True):
            group["weight_decay"] = weight_decay
        for state in optimizer.state.values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].clone()
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            shutil.rmtree(universal_folder(checkpoint) or "")
            (Path(checkpoint) / "latest_universal").unlink()
