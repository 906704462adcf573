"""A launcher that starts one process instead of several is noticed, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from kinject.errors import ConfigurationError
from kinject.launch import check_processes
from kinject.trainers import MaskedSFTConfig


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
