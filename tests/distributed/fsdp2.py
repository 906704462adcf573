"""Run by test_fsdp2.py as one of two processes: a step with FSDP2 on gloo is that of one process; weights load back."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from kinject.evaluation.best_weights import BestWeights
from kinject.models.weights import flops_per_token, is_sharded, parameter_count
from tests.conftest import build_model, build_tokenizer


def step(model: Any, ids: torch.Tensor) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def main(folder: Path) -> None:
    rank = PartialState(cpu=True).process_index
    assert distributed.get_world_size() == 2
    alone = build_model(build_tokenizer())
    sharded, before = copy.deepcopy(alone), copy.deepcopy(alone)
    # As the launch configuration shards on GPUs, but in fp32, so that the step can be compared.
    policy = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32)
    mesh = init_device_mesh("cpu", (2,))
    for layer in sharded.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(sharded, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    assert is_sharded(sharded) and not is_sharded(alone)
    assert parameter_count(sharded) == parameter_count(alone) and flops_per_token(sharded) == flops_per_token(alone)
    ids = torch.randint(250, (4, 12), generator=torch.Generator().manual_seed(0))
    expected = step(alone, ids)
    losses: list[Any] = [None, None]
    distributed.all_gather_object(losses, step(sharded, ids[2 * rank : 2 * rank + 2]))
    assert abs(sum(losses) / 2 - expected) < 1e-4, (losses, expected)
    for own, other in zip(sharded.parameters(), alone.parameters(), strict=True):
        assert own.to_local().numel() < own.numel()
        torch.testing.assert_close(own.full_tensor(), other, atol=1e-4, rtol=0)
    best = BestWeights(folder / "best", writes=rank == 0)
    assert best.offer(1, 0.5, [], model=before, tokenizer=None, trainer=None)
    best.load_into(sharded)
    for own, other in zip(sharded.parameters(), before.parameters(), strict=True):
        assert torch.equal(own.full_tensor(), other)
    print(f"process {rank} done", flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
