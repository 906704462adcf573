"""The launch files are read as those will who start them; nothing here has a cluster."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "recipes" / "launch"
SLURM = {
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_JOB_ID": "123456",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "1",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_CPUS_PER_TASK": "32",
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("strategy", ["zero3", "fsdp2", "ddp"])
def test_slurm_starts_a_launcher_a_node_with_what_was_asked(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for Slurm's commands and for accelerate, which write down what they are given."""
    programs = {
        "scontrol": "printf 'node1\\nnode2\\n'",
        "srun": 'shift; exec "$@"',  # as on one of the nodes
        "accelerate": 'printf "%s\\n" "$@" > given; env > environment',
    }
    for name, does in programs.items():
        path = tmp_path / name
        path.write_text(f"#!/usr/bin/env bash\n{does}\n", encoding="utf-8")
        path.chmod(0o755)
    asked = ["recipes/masked_ft.py", "--config", "my run.yaml", "--output_dir", "/shared/out"]
    environment = {**os.environ, **SLURM, "STRATEGY": strategy, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(LAUNCH / "slurm.sbatch"), *asked], cwd=tmp_path, env=environment, check=True)
    command, *given = (tmp_path / "given").read_text(encoding="utf-8").splitlines()
    assert command == "launch" and given[-7:] == [*asked, "--resume_from_checkpoint", "true"]
    options = accelerate_options(given)
    assert (ROOT / options.config_file).is_file() and Path(options.config_file).stem == strategy
    assert (options.num_machines, options.machine_rank, options.num_processes) == (2, 1, 8)
    assert (options.main_process_ip, options.max_restarts, options.rdzv_backend) == ("node1", 2, "c10d")
    assert options.training_script == asked[0]
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "environment").read_text().splitlines() if "=" in line)
    assert (seen["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"], seen["OMP_NUM_THREADS"]) == ("540", "8")
    elastic = what_torchrun_gets(options, seen, monkeypatch)
    assert (elastic.rdzv_backend, elastic.rdzv_endpoint, elastic.rdzv_id) == ("c10d", "node1:23456", "123456")
    assert (elastic.nnodes, elastic.nproc_per_node, elastic.max_restarts) == ("2", "4", 2)


def what_torchrun_gets(options: Any, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What accelerate hands to torchrun, here in this process, instead of DeepSpeed's own launcher that logs in to nodes."""
    import torch
    from accelerate.commands import launch
    from torch.distributed import run

    given: list[Any] = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(run, "run", given.append)
    for name, value in environment.items():
        if name.startswith("PET_"):
            monkeypatch.setenv(name, value)
    launch.launch_command(options)
    return given[0]


def accelerate_options(given: list[str]) -> Any:
    from accelerate.commands.launch import launch_command_parser

    return launch_command_parser().parse_args(given)


def test_slurm_is_told_to_send_the_signal_before_torchrun_would_kill() -> None:
    text = (LAUNCH / "slurm.sbatch").read_text(encoding="utf-8")
    warned = int(re.search(r"--signal=TERM@(\d+)", text)[1])  # type: ignore[index]
    killed = int(re.search(r"TORCH_ELASTIC_SHUTDOWN_TIMEOUT=(\d+)", text)[1])  # type: ignore[index]
    assert 300 <= killed < warned


def test_kubernetes_and_skypilot_start_a_recipe_that_is_there() -> None:
    from torch.distributed.run import get_args_parser

    job = yaml.safe_load((LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8"))
    pod = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    (container,) = pod["containers"]
    program, *command = container["command"]
    assert program == "torchrun"
    options = get_args_parser().parse_args(command)
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text(encoding="utf-8"))
    line = next(each for each in task["run"].replace("\\\n", " ").splitlines() if each.startswith("accelerate"))
    line = re.sub(r'"\$\(\(.*?\)\)"', "16", re.sub(r'"\$\(echo.*?\)"', "10.0.0.1", line))
    launched = accelerate_options(
        shlex.split(line.replace('"$SKYPILOT_NUM_NODES"', "2").replace('"$SKYPILOT_NODE_RANK"', "0"))[2:]
    )
    for parsed in (options, launched):
        script = [parsed.training_script, *parsed.training_script_args]
        assert "--resume_from_checkpoint" in script
        named = [
            each
            for each in (*script, getattr(parsed, "config_file", None))
            if each and re.search(r"\.(py|ya?ml|json)$", each)
        ]
        assert len(named) >= 3 - (parsed is launched) and all((ROOT / each).is_file() for each in named)
