"""Run by test_asking_diffusion.py as one of two processes: each asks other questions of one model, sharded by FSDP."""

from __future__ import annotations

from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from kinject.evaluation.asking import answer_questions
from tests.evaluation.parts import QUESTION_TEXTS, TOKENIZER, build_diffusion


def main() -> None:
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    questions = QUESTION_TEXTS[:1] if rank == 0 else QUESTION_TEXTS[1:]
    model = build_diffusion()
    expected = answer_questions(model, TOKENIZER, questions, max_new_tokens=12)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    calls: list[int] = []
    model.register_forward_hook(lambda *given: calls.append(1))
    assert answer_questions(model, TOKENIZER, questions, max_new_tokens=12, batch_size=1) == expected
    counts: list[int | None] = [None, None]
    distributed.all_gather_object(counts, len(calls))
    assert counts[0] == counts[1], counts
    print(f"process {rank} done", flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
