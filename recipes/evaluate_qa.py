"""Forward and backward question answering of any model or adapter, without training.

    python recipes/evaluate_qa.py --model_name_or_path outputs/demo/masked --documents fictional:name_description --size 8
    python recipes/evaluate_qa.py --help             # every option

Prints the scores by the paper's measure and the strict one, and writes `results.json` to `--output_dir` if given.
"""

from kinject.commands.recipe import evaluate

if __name__ == "__main__":
    evaluate()
