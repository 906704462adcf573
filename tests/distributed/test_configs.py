"""Every launch configuration is one that accelerate and DeepSpeed themselves understand as it was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.launching import CONFIGS, ROOT, launch_environment

LAUNCHES = sorted(CONFIGS.rglob("*.yaml"))
ZERO = sorted(CONFIGS.glob("*.json"))


def test_every_strategy_has_a_launch_on_gpus_and_all_but_fsdp_one_on_the_cpu() -> None:
    strategies = {"ddp", "zero1", "zero2", "zero3", "zero3_offload"}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*strategies, "fsdp2"}
    assert {path.stem for path in CONFIGS.glob("cpu/*.yaml")} == strategies
    assert {path.stem for path in ZERO} == strategies - {"ddp"}


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_accelerate_reads_the_launch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
    from accelerate.utils import DistributedType

    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    on_cpu = path.parent.name == "cpu"
    assert (config.num_processes, config.use_cpu) == ((2, True) if on_cpu else (4, False))
    expected = {"ddp": DistributedType.MULTI_GPU, "fsdp2": DistributedType.FSDP}
    assert config.distributed_type == expected.get(path.stem, DistributedType.DEEPSPEED)
    assert config.mixed_precision is None  # the recipe's bf16 says it
    named = (config.deepspeed_config or {}).get("deepspeed_config_file")
    launcher = (config.deepspeed_config or {}).get("deepspeed_multinode_launcher")
    assert launcher == ("standard" if named and not on_cpu else None)  # pdsh, the default, fails under Slurm
    assert named == (None if path.stem in expected else f"deepspeed_configs/{path.stem}.json")
    assert all((ROOT / file).is_file() for file in [named] if file)
    environment = launch_environment(path, monkeypatch)
    assert environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE") == named
    assert (environment.get("ACCELERATE_USE_FSDP") == "true") == (path.stem == "fsdp2")


@pytest.mark.parametrize("path", ZERO, ids=lambda path: path.stem)
@pytest.mark.parametrize("bf16", [True, False])
def test_deepspeed_reads_what_the_trainer_fills_in(path: Path, bf16: bool, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="the deepspeed extra is not installed")
    from deepspeed.runtime.config import DeepSpeedConfig
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig, unset_hf_deepspeed_config

    from tests.conftest import build_model, build_tokenizer

    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, bf16=bf16, per_device_train_batch_size=3, gradient_accumulation_steps=2
    )
    try:
        filled = HfTrainerDeepSpeedConfig(json.loads(path.read_text(encoding="utf-8")))
        filled.trainer_config_process(arguments)
        filled.trainer_config_finalize(arguments, build_model(build_tokenizer()), num_training_steps=10)
    finally:
        unset_hf_deepspeed_config()
    assert "auto" not in json.dumps(filled.config)
    config: Any = DeepSpeedConfig(filled.config)
    stage = int(path.stem[4])
    assert config.zero_optimization_stage == stage
    assert (config.train_batch_size, config.train_micro_batch_size_per_gpu) == (6, 3)
    assert config.gradient_clipping == arguments.max_grad_norm
    assert config.bfloat16_config.enabled == bf16
    assert config.communication_data_type == torch.float32 and config.grad_accum_dtype == "fp32"
    assert config.zero_config.gather_16bit_weights_on_model_save == (stage == 3)
    offloaded = config.zero_config.offload_optimizer is not None, config.zero_config.offload_param is not None
    assert offloaded == ((True, True) if path.stem == "zero3_offload" else (False, False))


def test_fsdp2_shards_every_layer_and_saves_the_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin

    environment = launch_environment(CONFIGS / "fsdp2.yaml", monkeypatch)
    for name, value in environment.items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert "FULL" in str(plugin.state_dict_type) and plugin.cpu_ram_efficient_loading
