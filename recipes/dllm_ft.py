"""Fine-tuning of a masked diffusion model on documents (LLaDA, arXiv 2502.09992; on documents, arXiv 2510.09885).

    accelerate launch recipes/dllm_ft.py --config recipes/llada-8b/diffusion.yaml
    python recipes/dllm_ft.py                        # a small model that comes with kinject, on new people of its world
    python recipes/dllm_ft.py --help                 # every option

An autoregressive model is turned into a diffusion model by `--to_diffusion`. Same outputs as `recipes/masked_ft.py`.
"""

from pathlib import Path

from kinject.commands.recipe import main

if __name__ == "__main__":
    main("diffusion", default_config=Path(__file__).parent / "nano" / "diffusion.yaml")
