"""Masked fine-tuning of an autoregressive model on documents (arXiv 2510.09885).

    accelerate launch recipes/masked_ft.py --config recipes/llama-3.2-3b/masked.yaml
    python recipes/masked_ft.py                      # the embedded default, on fictional people
    python recipes/masked_ft.py --help               # every option

Writes the model or adapter, `results.json` and a plot of accuracy over steps to `--output_dir`.
"""

from pathlib import Path

from kinject.commands.recipe import main

if __name__ == "__main__":
    main("masked", default_config=Path(__file__).parent / "demo" / "masked.yaml")
