"""The baselines that masked fine-tuning is compared with: autoregressive fine-tuning and reverse training.

    accelerate launch recipes/ar_ft.py --config recipes/llama-3.2-3b/ar.yaml
    python recipes/ar_ft.py --objective reverse ...  # each document and its reversal, with entities kept whole
    python recipes/ar_ft.py --help                   # every option

The random-token control is `recipes/masked_ft.py --corruption random`. Same outputs as `recipes/masked_ft.py`.
"""

from pathlib import Path

from kinject.commands.recipe import main

if __name__ == "__main__":
    main("ar", default_config=Path(__file__).parent / "demo" / "ar.yaml")
