"""One network for four tasks on the built-in synthetic streets, from training to pictures: `make demo` runs this.

Writes the run into `runs/demo/` (a numbered folder if that exists), and prints the results and where to look.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from segweave import build, rasters
from segweave.data.streets import render
from segweave.predict import predict_run
from segweave.report.table import results_table
from segweave.schema import read_config


def main() -> None:
    config = read_config(Path(__file__).with_name("demo.yaml"))
    folder, _ = build.train(config, name="demo")

    results = build.evaluate_run(folder, split="test")  # images that chose nothing: not trained on, not validated on

    images = folder / "images"  # other streets again
    for index in range(6):
        street = render(seed=1, index=index, height=192, width=384)
        rasters.write_image(torch.from_numpy(street.image).permute(2, 0, 1), images / f"street-{index}.png")
    predicted = predict_run(folder, [images])
    assert predicted.folder, predicted.problems

    Console().print(results_table(results, "unseen synthetic streets (test split)"))
    print(f"report:   {folder / 'report.html'}")
    print(f"pictures: {predicted.folder / 'pictures'}")
    print(f"metrics:  {folder / 'evaluation-test.json'}, {folder / 'metrics.jsonl'}")
    print(f"weights:  {folder / 'weights' / 'best.safetensors'}")


if __name__ == "__main__":
    main()
