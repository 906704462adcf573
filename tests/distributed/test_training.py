"""Two processes train, ask and write as one does, under every strategy: masks, losses, weights, answers, files, resuming.

All of it looks at the same runs, and is in one file for that: workers of pytest-xdist share none between files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kinject.evaluation.results import read_results
from kinject.models import load_model
from tests.conftest import nf4
from tests.distributed import worker
from tests.distributed.launching import STRATEGIES, launch, seen_by_all, work
from tests.invariants import trajectories
from tests.invariants.trajectories import TWO_PROCESSES, require_same
from tests.processes import run_two
from tests.trainers.conftest import DOCUMENTS

Alone = tuple[Path, dict[str, Any]]
WRAPPERS = {"ddp": "DistributedDataParallel"}
RUNS = {run: file for run, (_, _, file) in worker.INJECTIONS.items()}
CASES = [f"{objective}-{adapted}" for objective, adapted in worker.CASES]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_draw_the_masks_and_losses_of_one(
    strategy: str, on_two: Callable[[str], Path], alone: Alone
) -> None:
    first, second = seen_by_all(on_two(strategy), "train")
    for case in CASES:
        expected = alone[1][case]
        for process in (first[case], second[case]):
            assert (process["world_size"], process["wrapped"]) == (2, WRAPPERS.get(strategy, "DeepSpeedEngine"))
            assert process["losses"] == pytest.approx(expected["losses"], abs=1e-4)
        assert len(expected["losses"]) == 6 and len(set(expected["losses"])) == 6
        assert len(first[case]["rows"]) == len(second[case]["rows"]) == 12
        rows = [[epoch, ids] for epoch, ids in expected["rows"]]
        assert sorted(first[case]["rows"] + second[case]["rows"]) == sorted(rows)


def test_two_processes_take_the_steps_that_were_recorded(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    run_two("tests.invariants.trajectories", str(output), TWO_PROCESSES)
    (found,) = json.loads(output.read_text(encoding="utf-8")).values()
    recorded = Path(trajectories.__file__).with_suffix(".json")
    require_same(found, json.loads(recorded.read_text(encoding="utf-8"))[TWO_PROCESSES])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_whole_model_is_saved_once(strategy: str, on_two: Callable[[str], Path], alone: Alone) -> None:
    for objective in ("masked", "diffusion"):
        saved, expected = on_two(strategy) / f"{objective}-full", alone[0] / f"{objective}-full"
        ignored = {"resumed"}
        assert {path.name for path in saved.iterdir()} == {path.name for path in expected.iterdir()} - ignored
        weights, wanted = load_file(saved / "model.safetensors"), load_file(expected / "model.safetensors")
        assert set(weights) == set(wanted)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, wanted[name], atol=1e-4, rtol=0, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_adapter_loads_in_plain_peft_and_changes_the_output(
    strategy: str, on_two: Callable[[str], Path], alone: Alone
) -> None:
    from peft import PeftModel

    from tests.conftest import build_model, build_tokenizer

    tokenizer = build_tokenizer()
    ids = tokenizer(DOCUMENTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = build_model(tokenizer)(input_ids=ids).logits
        folders = [folder / "masked-lora" for folder in (on_two(strategy), alone[0])]
        found, expected = (
            PeftModel.from_pretrained(build_model(tokenizer), str(folder)).eval()(input_ids=ids).logits
            for folder in folders
        )
    assert (found - before).abs().max() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resume_goes_on_with_the_loss_curve(strategy: str, on_two: Callable[[str], Path], alone: Alone) -> None:
    for process in seen_by_all(on_two(strategy), "resume"):
        for case in CASES:
            assert process[case]["world_size"] == 2
            assert process[case]["losses"] == pytest.approx(alone[1][case]["losses"], abs=1e-4)
            assert len(process[case]["rows"]) == 6  # of the last three steps only


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loss_that_is_no_number_in_one_process_stops_all_at_the_same_step(
    strategy: str, on_two: Callable[[str], Path]
) -> None:
    first, second = seen_by_all(on_two(strategy), "diverge")
    assert first == second
    assert first["step"] == 1 and "diverged after 1 of 6 steps: the loss is not a finite number" in first["said"]
    assert not list((on_two(strategy) / "diverged").glob("*.safetensors"))


def test_a_checkpoint_of_two_processes_resumes_on_one(on_two: Callable[[str], Path], alone: Alone) -> None:
    folder = on_two("ddp")
    found = worker.resume(folder, 4)
    for case in CASES:
        assert found[case]["world_size"] == 1
        assert found[case]["losses"] == pytest.approx(alone[1][case]["losses"], abs=1e-4)


def test_a_sharded_checkpoint_of_two_processes_resumes_on_one(
    runs: Path, on_two: Callable[[str], Path], alone: Alone
) -> None:
    stages = [strategy for strategy in STRATEGIES if strategy != "ddp"]
    for stage in stages:
        on_two(stage)
    work("zero1", str(runs), "4", *(f"resume:{stage}" for stage in stages), processes=1)
    for stage in stages:
        (found,) = seen_by_all(runs / stage, "resume", processes=1)
        for case in CASES:
            assert (found[case]["world_size"], found[case]["wrapped"]) == (1, "DeepSpeedEngine")
            assert found[case]["losses"] == pytest.approx(alone[1][case]["losses"], abs=1e-4)
            checkpoint = runs / stage / case / "checkpoint-3"
            assert not list(checkpoint.glob("*universal*"))  # what was made of it for one process is gone


def test_offloading_to_the_host_changes_no_loss(runs: Path, alone: Alone) -> None:
    pytest.importorskip("deepspeed", reason="the deepspeed extra is not installed")
    folder = runs / "zero3_offload"
    folder.mkdir()
    launch("zero3_offload", str(folder), "2", "train")
    for process in seen_by_all(folder, "train"):
        for case in CASES:
            assert process[case]["world_size"] == 2
            assert process[case]["losses"] == pytest.approx(alone[1][case]["losses"], abs=1e-4)


def test_a_model_that_does_not_fit_whole_answers_sharded_as_it_does_gathered(on_two: Callable[[str], Path]) -> None:
    for found in seen_by_all(on_two("zero3"), "ask"):
        for objective in ("masked", "diffusion"):
            assert (found[f"{objective} None sharded"], found[f"{objective} 0 sharded"]) == (False, True)
            assert found[f"{objective} 0"] == found[f"{objective} None"]


@pytest.fixture(scope="module")
def injected_alone(runs: Path) -> Path:
    folder = runs / "injected"
    folder.mkdir()
    worker.inject(folder, 4)
    return folder


def comparable(results: dict[str, Any]) -> dict[str, Any]:
    """``results`` without clock, memory, and settings that differ by design.

    Nor with the answers midway, of which a wrong one can hang on the rounding of a sum; those at the end are compared.
    """
    kept = json.loads(json.dumps(results))
    for entry in (*kept["history"], kept["train"]):
        for name in ("seconds", "peak_memory_bytes", "loss", "answers"):
            entry.pop(name, None)
    for measured in kept.get("retention", {}).values():
        for name in ("perplexity", "perplexity_ratio"):
            measured.pop(name, None)
        measured["nats_per_token"] = round(measured["nats_per_token"], 3)
    for name in ("per_device_train_batch_size", "gradient_checkpointing_kwargs"):
        kept["config"].pop(name, None)
    return kept


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_results_are_those_of_one_process(
    strategy: str, run: str, on_two: Callable[[str], Path], injected_alone: Path
) -> None:
    found, expected = (read_results(folder / run) for folder in (on_two(strategy), injected_alone))
    if run.endswith("qlora"):  # Adam makes whole steps of gradients so small that rounding decides on their sign
        assert sum(one == two for one, two in zip(found["answers"], expected["answers"], strict=True)) > 12  # of 24
        assert found["before"] == expected["before"]
        assert found["train"]["flops"] == pytest.approx(expected["train"]["flops"])
        return
    assert comparable(found) == comparable(expected)
    assert found["train"]["flops"] > 0 and found["before"]["forward"]["n"] > 0
    if run == "nano-ar":
        assert found["after"]["forward"]["exact_match"] > 0  # answers worth comparing
        assert found["retention"]["after"]["nats_per_token"] != found["retention"]["before"]["nats_per_token"]
    else:
        assert found["selected"]["step"] < found["train"]["steps"]  # weights worth restoring


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_selected_weights_are_the_ones_saved(strategy: str, on_two: Callable[[str], Path]) -> None:
    for run, file in RUNS.items():
        folder = on_two(strategy) / run
        saved, best = (load_file(directory / file) for directory in (folder, folder / "best"))
        assert saved.keys() == best.keys()
        assert all(torch.equal(weight, best[name]) for name, weight in saved.items())
        assert "backward" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("run", RUNS)
def test_what_was_saved_answers_as_it_did_in_the_run(strategy: str, run: str, on_two: Callable[[str], Path]) -> None:
    from kinject.evaluation import answer_questions

    folder = on_two(strategy) / run
    loaded = load_model(str(folder), **(nf4() if run.endswith("qlora") else {}))
    recorded = read_results(folder)["answers"]
    answers = answer_questions(
        loaded.model, loaded.tokenizer, [each["question"] for each in recorded], max_new_tokens=16
    )
    assert answers == [each["answer"] for each in recorded]
