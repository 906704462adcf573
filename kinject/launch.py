"""What a run is started on: notices a launcher that silently started one process, and processors that are slow in bf16."""

from __future__ import annotations

import os

from kinject.errors import ConfigurationError

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of torchrun and MPI


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


def processor_is_fast_in_bf16() -> bool:
    """Whether the processor has instructions for bf16; others emulate it at a fraction of fp32's speed."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
