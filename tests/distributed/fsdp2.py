"""Run by test_fsdp2.py as one of two processes on gloo: FSDP2 by hand and as accelerate prepares it, and what they agree on."""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from trl.trainer.utils import add_fused_lm_head

from kinject import compat
from kinject.errors import ConfigurationError
from kinject.evaluation.callback import BestWeights
from kinject.models import load_model, weights
from kinject.models.weights import flops_per_token, is_sharded, parameter_count
from kinject.trainers import rehearsal
from kinject.trainers.positions import SupervisedPositions
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
    shards_as_launched(rank)
    only_the_main_process_reads_the_best_weights(folder, rank)
    they_agree(folder, rank)
    rehearsed_answers_are_shared_out(rank)
    print(f"process {rank} done", flush=True)
    distributed.destroy_process_group()


def loss_of(model: Any, ids: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The loss of these targets through trl's fused head, on the supervised positions alone."""
    targets = ids[:, 1:][rows, positions]
    with SupervisedPositions(getattr(model, "module", model)).at(rows, positions):
        outputs = model(input_ids=ids, shift_labels=targets[None], fused_lm_head=True)
    return -outputs.log_probs.sum() / len(rows)


def shards_as_launched(rank: int) -> None:
    """With the policy of the shipped configuration the loss keeps its fp32, and the weights are those of the main process."""
    plugin = compat.reduces_in_fp32({})["fsdp_plugin"]
    assert plugin.cpu_ram_efficient_loading and plugin.reshard_after_forward
    plugin.set_mixed_precision("bf16")
    loaded: Any = load_model("nano-ar", dtype="float32").model
    alone: Any = load_model("nano-ar", dtype="bfloat16").model
    if rank:  # cpu_ram_efficient_loading
        with torch.no_grad():
            for weight in loaded.parameters():
                weight.zero_()
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("dp_shard",))
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        torch_device_mesh=mesh,
        parallelism_config=SimpleNamespace(fsdp_dim_names=("dp_shard",)),
        mixed_precision="bf16",
        device=torch.device("cpu"),
        is_main_process=rank == 0,
    )
    for model in (loaded, alone):
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    sharded: Any = fsdp2_prepare_model(accelerator, loaded)
    assert is_sharded(sharded)
    ids = torch.randint(250, (8, 24), generator=torch.Generator().manual_seed(0))
    where = (torch.rand((8, 23), generator=torch.Generator().manual_seed(1)) > 0.5).nonzero(as_tuple=True)
    expected, found = loss_of(alone, ids, *where), loss_of(sharded, ids, *where)
    assert found.dtype == torch.float32 and found != found.bfloat16()
    assert abs(found - expected) < 1e-4 * expected, (found, expected)  # rounded to bf16 it would be 1e-3 off
    expected.backward()
    found.backward()
    for (name, own), other in zip(sharded.named_parameters(), alone.parameters(), strict=True):
        error = (own.grad.full_tensor() - other.grad.float()).norm() / other.grad.float().norm()
        assert error < 1e-2, (name, error)  # as much as two computations in bf16 differ


def only_the_main_process_reads_the_best_weights(folder: Path, rank: int) -> None:
    """A process without the folder, as on a node with a disk of its own, gets the weights of the main process."""
    kept, model = build_model(build_tokenizer(), seed=1), build_model(build_tokenizer())
    best = BestWeights(folder / f"disk-{rank}" / "best", writes=rank == 0)
    assert best.offer(1, 0.5, [], model=kept, tokenizer=None, trainer=None)
    assert best.folder.exists() == (rank == 0)
    best.load_into(model)
    for own, other in zip(model.parameters(), kept.parameters(), strict=True):
        assert torch.equal(own, other)


def they_agree(folder: Path, rank: int) -> None:
    """One decides for both, both wait for one, and a directory that one of them does not see is refused by both."""
    assert weights.from_main_process(rank) == 0 and weights.from_every_process(rank) == [0, 1]
    with weights.main_process_works() as works:
        assert works == (rank == 0)
        if works:
            time.sleep(0.2)
            (folder / "worked").touch()
    assert (folder / "worked").exists()
    weights.require_shared(folder / "shared", ["resume_from_checkpoint"])
    weights.require_shared(folder / f"disk-{rank}", [])
    try:
        weights.require_shared(folder / f"disk-{rank}", ["resume_from_checkpoint"])
    except ConfigurationError as error:
        assert "do not see what the main process writes there, which resume_from_checkpoint" in str(error)
    else:
        raise AssertionError("a directory that is not shared was taken")
    assert not list((folder / "shared").iterdir())


def rehearsed_answers_are_shared_out(rank: int) -> None:
    """Each process draws half of the parts, and both end with what one would have drawn."""
    loaded = load_model("nano-ar")
    prompts = [f"Who is {name}?" for name in ("Ida", "Bo", "Cyra", "Dov", "Ella")]
    rehearsal._PART = 2
    drawn: list[int] = []
    draw = rehearsal.own_answers

    def counting(model: Any, tokenizer: Any, part: Any, **options: Any) -> list[str]:
        drawn.append(len(part))
        return draw(model, tokenizer, part, **options)

    rehearsal.own_answers = counting
    answers, predictions = rehearsal.draw_rehearsal(
        loaded.model, loaded.tokenizer, prompts, max_new_tokens=8, silent=True
    )
    assert drawn == ([2, 1] if rank == 0 else [2])
    expected = [
        answer
        for number in range(3)
        for answer in draw(
            loaded.model, loaded.tokenizer, prompts[2 * number :][:2], seed=1_000 * number, max_new_tokens=8
        )
    ]
    assert answers == expected and predictions is not None and len(predictions) == 5


if __name__ == "__main__":
    main(Path(sys.argv[1]))
