"""DeepSpeed checkpoints for another number of processes than they were saved by.

DeepSpeed refuses them as they are, and brings a converter: every weight and optimizer state whole, by name
(arXiv 2406.18820).
"""

from __future__ import annotations

import io
import shutil
from argparse import Namespace
from contextlib import redirect_stdout
from os import PathLike
from pathlib import Path

from kinject.errors import ConfigurationError

_POINTER = "latest_universal"  # the file by which DeepSpeed finds the converted checkpoint


def needs_conversion(checkpoint: str | PathLike[str], processes: int) -> bool:
    """Whether ``checkpoint`` is of DeepSpeed, and of another number of processes than ``processes``.

    Raises:
        ConfigurationError: a DeepSpeed checkpoint without optimizer states.
    """
    folder = _sharded_folder(checkpoint)
    if folder is None:
        return False
    slices = len(list(folder.glob("*zero_pp_rank_*_optim_states.pt")))
    if slices == 0:
        raise ConfigurationError(
            f"checkpoint {Path(checkpoint).name}: {folder.name} holds no optimizer states; resume from a complete one."
        )
    return slices != processes


def to_universal(checkpoint: str | PathLike[str]) -> None:
    """Write the universal form of ``checkpoint`` beside its slices; one process calls this.

    Takes as much disk space again as weights and optimizer states do, in fp32.
    """
    from deepspeed.checkpoint.ds_to_universal import main as convert

    folder = _sharded_folder(checkpoint)
    assert folder is not None
    universal = folder.with_name(f"{folder.name}_universal")
    shutil.rmtree(universal, ignore_errors=True)  # of a run that was killed while it converted
    options = Namespace(
        input_folder=str(folder),
        output_folder=str(universal),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with redirect_stdout(io.StringIO()):
        convert(options)


def universal_folder(checkpoint: str | PathLike[str]) -> Path | None:
    """Where the universal form of ``checkpoint`` lies, if it has one."""
    pointer = Path(checkpoint) / _POINTER
    return Path(checkpoint) / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None


def _sharded_folder(checkpoint: str | PathLike[str]) -> Path | None:
    pointer = Path(checkpoint) / "latest"
    return Path(checkpoint) / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None
