"""All that the command line does, in a dozen lines of Python: train, evaluate, predict, score; then save and load.

    python examples/python_api.py [section.key=value]...

It takes the config of the demo; `train.epochs=1 data.count=96` makes it short.
"""

from __future__ import annotations

import sys
from pathlib import Path

import segweave as sw
from segweave.rasters import write_image


def main(overrides: list[str]) -> None:
    config = sw.read_config(Path(__file__).with_name("demo.yaml"), overrides)
    run, _ = sw.build.train(config, name="python-api")
    evaluated = sw.build.evaluate_run(run, split="val")

    # the validation images as files, to predict on them and to score the prediction files: the same numbers
    for sample in sw.build.build_dataset(config, "val", sw.build.build_tasks(config)):
        write_image(sample.image, run / "images" / f"{sample.id}.png")
    predicted = sw.predict.predict_run(run, [run / "images"])
    assert predicted.folder, predicted.problems
    scored = sw.build.score_predictions(config, predicted.folder, split="val")
    for task, key in (("semantic", "miou"), ("depth", "abs_rel"), ("scene", "accuracy")):
        print(f"{task} {key}: evaluated {evaluated[task][key]:.4f}, scored from files {scored[task][key]:.4f}")

    sw.MultiTaskModel.from_pretrained(run).save_pretrained(run / "to-share")
    again = sw.MultiTaskModel.from_pretrained(run / "to-share")
    print(
        f"saved and loaded: {sum(p.numel() for p in again.parameters()):,} parameters, tasks {', '.join(again.tasks)}"
    )
    print(f"look at: {predicted.folder / 'pictures'}")


if __name__ == "__main__":
    main(sys.argv[1:])
