"""What a run is started on and in: processes, devices, and a directory that loses nothing by it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from kinject.commands.inject import load_for_training
from kinject.commands.output_dir import (
    clear_output_dir,
    holding,
    prepare_output_dir,
    prepare_results,
    remove_checkpoints,
)
from kinject.compat import check_devices, check_processes
from kinject.errors import ConfigurationError
from kinject.trainers import MaskedSFTConfig
from kinject.trainers.document_config import set_deepspeed_rate


def simple_environment(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, str]:
    """The environment of the one process that `accelerate launch` starts without a process group."""
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    given: list[dict[str, str]] = []
    monkeypatch.setattr(launch, "simple_launcher", lambda args: given.append(prepare_simple_launcher_cmd_env(args)[1]))
    launch.launch_command(launch.launch_command_parser().parse_args([*arguments, "train.py"]))
    return given[0]


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_CPU", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("by", ["option", "file"])
def test_two_processes_that_became_one_are_an_error(by: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "multi_cpu.yaml"
    file.write_text("distributed_type: MULTI_CPU\nnum_processes: 2\nuse_cpu: true\n", encoding="utf-8")
    arguments = ["--cpu", "--num_processes", "2"] if by == "option" else ["--config_file", str(file)]
    for name, value in simple_environment(monkeypatch, *arguments).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="told to start several processes, and started one"):
        MaskedSFTConfig(str(tmp_path), use_cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun and MPI do
    check_processes()


def test_one_process_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    check_processes()
    for name, value in simple_environment(monkeypatch, "--cpu", "--num_processes", "1").items():
        monkeypatch.setenv(name, value)
    check_processes()


def test_several_gpus_and_no_launcher_are_refused_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from trl import ModelConfig

    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", property(lambda self: 2))
    monkeypatch.setattr(sys, "argv", ["/bin/kinject", "inject", "my notes.txt", "--model", "m"])
    args = MaskedSFTConfig(str(tmp_path), report_to="none", bf16=False)
    with pytest.raises(ConfigurationError) as refused:
        load_for_training(ModelConfig("there/is-none"), args)
    command = "accelerate launch --num_processes 2 -m kinject inject 'my notes.txt' --model m"
    assert command in str(refused.value) and "CUDA_VISIBLE_DEVICES=0" in str(refused.value)
    args.model_init_kwargs = {"device_map": "auto"}  # one model over both: a matter of this process
    with pytest.raises(ConfigurationError, match="there/is-none"):
        load_for_training(ModelConfig("there/is-none"), args)


def test_one_device_or_none_is_no_error() -> None:
    check_devices(0)
    check_devices(1)


def test_deepspeed_gets_the_learning_rate_that_the_model_decides(tmp_path: Path) -> None:
    file = {
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": 1e-8}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto"}},
        "train_micro_batch_size_per_gpu": "auto",
        "zero_optimization": {"stage": 2},
    }
    args = MaskedSFTConfig(str(tmp_path), deepspeed=file, report_to="none", bf16=False, use_cpu=True)
    config = args.hf_deepspeed_config.config
    assert config["optimizer"]["params"]["lr"] == config["scheduler"]["params"]["warmup_max_lr"] == "auto"
    for open_value in ("auto", None):  # as transformers leaves it while there is no rate
        set_deepspeed_rate(args.hf_deepspeed_config, "auto", open_value)
        set_deepspeed_rate(args.hf_deepspeed_config, open_value, 5e-6)
        assert config["optimizer"]["params"]["lr"] == config["scheduler"]["params"]["warmup_max_lr"] == 5e-6
        set_deepspeed_rate(args.hf_deepspeed_config, 5e-6, "auto")
    assert config["optimizer"]["params"]["betas"] == [0.9, 0.999]
    given = MaskedSFTConfig(
        str(tmp_path), deepspeed=file, learning_rate=1e-3, report_to="none", bf16=False, use_cpu=True
    )
    assert given.hf_deepspeed_config.config["optimizer"]["params"]["lr"] == 1e-3


# The directory of a run.

CARD = "---\nlicense: mit\nkinject:\n  objective: masked\n---\n\n# A run\n"
RESULTS = {"schema": 1, "objective": "masked", "before": {}, "history": [], "after": None}


def fill(folder: Path, *names: str, **results: Any) -> Path:
    """``folder`` with files of these names, and `results.json` where any of its keys is given."""
    folder.mkdir(exist_ok=True)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CARD if name == "README.md" else "{}", encoding="utf-8")
    if results:
        (folder / "results.json").write_text(json.dumps({**RESULTS, **results}), encoding="utf-8")
    return folder


MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
STEP = "checkpoint-30/trainer_state.json"


@pytest.mark.parametrize(
    ("names", "results", "message"),
    [
        (("README.md", *MODEL), {"after": {}}, "holds a finished run"),
        (("README.md", *MODEL, STEP), {"after": {}}, "holds a finished run"),
        (("README.md", *MODEL), {}, "holds a finished run"),  # of recipes/sft.py, which measures nothing
        (
            ("README.md", STEP, "checkpoint-4/trainer_state.json"),
            {"before": {}},
            "holds checkpoint-30 of a run that was not",
        ),
        ((STEP,), {}, "--resume_from_checkpoint true, or start again with --overwrite"),
        ((), {"history": [{"step": 1}]}, "holds what an unfinished run measured, and no checkpoint"),
        (("notes.txt",), {}, r"did not write \(notes.txt\)"),
        (MODEL, {}, "did not write .*config.json.*model.safetensors"),  # a model of the user's
        (("results.json",), {}, r"did not write \(results.json\)"),
        (("README.md", "documents/a.md"), {"before": {}}, r"did not write \(documents\)"),
    ],
)
def test_a_directory_that_would_lose_something_is_refused(
    tmp_path: Path, names: tuple[str, ...], results: dict[str, Any], message: str
) -> None:
    folder = fill(tmp_path / "out", *names, **results)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigurationError, match=message):
        prepare_output_dir(str(folder))
    assert prepare_output_dir(str(folder), overwrite=True) == folder
    assert sorted(folder.rglob("*")) == before


def test_a_readme_of_the_users_is_not_ours(tmp_path: Path) -> None:
    for text in ("# My project\n", "---\nlicense: mit\n---\nAbout kinject: nothing.\n"):
        fill(tmp_path / "out", STEP)
        (tmp_path / "out" / "README.md").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigurationError, match=r"did not write \(README.md\)"):
            prepare_output_dir(str(tmp_path / "out"), resume=True)
    for text in (CARD, ""):  # an empty one is left where a run is killed while its first form is saved
        (tmp_path / "out" / "README.md").write_text(text, encoding="utf-8")
        prepare_output_dir(str(tmp_path / "out"), resume=True)
    (fill(tmp_path / "mine", "a.md") / "README.md").write_text("", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"did not write \(README.md, a.md\)"):
        prepare_output_dir(str(tmp_path / "mine"))


@pytest.mark.parametrize(
    ("names", "results"),
    [
        ((), {}),
        (("runs/events", "log.txt", "train.log", ".gitignore"), {}),
        (("README.md", "accuracy.png", "runs/events"), {"before": {}}),  # stopped before its first checkpoint
        (("checkpoint-30/model.safetensors", "README.md"), {"before": {}}),  # killed while it was written
        (("best.new/model.safetensors", "README.md"), {"before": {}}),
    ],
)
def test_a_directory_that_loses_nothing_is_taken(
    tmp_path: Path, names: tuple[str, ...], results: dict[str, Any]
) -> None:
    folder = fill(tmp_path / "out", *names, **results)
    assert prepare_output_dir(str(folder)) == folder


def test_a_run_goes_on_in_its_own_directory_as_long_as_it_can(tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", "README.md", *MODEL, STEP, after={}, history=[{"step": 30}])
    assert prepare_output_dir(str(folder), resume=True) == folder
    (folder / STEP).unlink()
    with pytest.raises(ConfigurationError, match="holds a finished run: its checkpoints are gone"):
        prepare_output_dir(str(folder), resume=True)
    killed = fill(tmp_path / "killed", "README.md", history=[{"step": 1}])
    assert prepare_output_dir(str(killed), resume=True) == killed


def test_nothing_stays_of_a_directory_that_was_only_proved_to_be_writable(tmp_path: Path) -> None:
    assert prepare_output_dir(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for name in ("file", "file/b"):
        with pytest.raises(ConfigurationError, match="output_dir .* cannot be written.*--output_dir"):
            prepare_output_dir(str(tmp_path / name))


def test_clearing_takes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    users = ("notes.txt", "documents/a.md", ".gitignore", "train.log")
    folder = fill(
        tmp_path / "out", "README.md", *MODEL, STEP, "best/model.safetensors", "accuracy.png", *users, after={}
    )
    assert clear_output_dir(folder) == []
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == sorted(users)
    fill(folder, "checkpoint-9/trainer_state.json")
    (folder / "README.md").write_text("# My project\n", encoding="utf-8")
    assert clear_output_dir(folder) == ["README.md"] and not (folder / "checkpoint-9").exists()
    assert not (folder / "README.md").exists()
    assert clear_output_dir(fill(tmp_path / "model", *MODEL)) == sorted(MODEL)  # the user's own: replaced, and said
    assert holding(tmp_path / "model").own == []


def test_the_parts_of_a_merged_adapter_are_its_own_and_a_folder_of_that_name_is_not(tmp_path: Path) -> None:
    merged = {"after": {}, "objective": "merged"}
    files = ("README.md", "adapter_model.safetensors", "parts/one/adapter_config.json")
    folder = fill(tmp_path / "merged", *files, **merged)
    assert holding(folder).foreign == [] and clear_output_dir(folder) == [] and not (folder / "parts").exists()
    folder = fill(tmp_path / "merged", *files, "parts/manual.pdf", **merged)
    assert clear_output_dir(folder) == [] and (folder / "parts" / "manual.pdf").is_file()
    folder = fill(tmp_path / "run", "README.md", *MODEL, "parts/one/adapter_config.json", after={})
    assert [path.name for path in holding(folder).foreign] == ["parts"]


def test_a_finished_run_keeps_no_checkpoints(tmp_path: Path) -> None:
    users = ("notes.txt", "best.txt", "checkpoint-a/x")
    folder = fill(tmp_path / "out", "README.md", *MODEL, STEP, "checkpoint-4/optimizer.pt", *users, after={})
    fill(folder, "best/model.safetensors")
    assert remove_checkpoints(folder) == (["best", "checkpoint-30", "checkpoint-4"], 6)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {"README.md", "results.json", *MODEL, *users}


def test_only_the_first_process_looks_and_clears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "out", STEP)
    monkeypatch.setenv("RANK", "1")
    assert prepare_output_dir(str(folder)) == folder and clear_output_dir(folder) == []
    assert (folder / STEP).is_file()


def test_an_evaluation_replaces_no_results_unasked(tmp_path: Path) -> None:
    folder = fill(tmp_path / "out", "notes.txt")
    assert prepare_results(str(folder), overwrite=False) == folder
    fill(folder, after={})
    with pytest.raises(ConfigurationError, match=r"holds a results.json: .*--overwrite"):
        prepare_results(str(folder), overwrite=False)
    (folder / "results.json").rename(folder / "report.html")  # one of the user's, perhaps
    with pytest.raises(ConfigurationError, match=r"holds a report.html: .*--overwrite"):
        prepare_results(str(folder), overwrite=False)
    assert prepare_results(str(folder), overwrite=True) == folder
