"""Makes `docs/pictures/streets.jpg` from the run that `make demo` left: image, segmentation, objects, depth of unseen
streets.

python docs/readme_picture.py [RUN]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import segweave as sw
from segweave.data.augment import Resize
from segweave.data.streets import render
from segweave.rasters import write_image

STREETS = (3, 28)  # of seed 1; the demo trains on seed 0
HEIGHT, WIDTH, GAP = 168, 336, 6


def main(run: str = "runs/demo") -> None:
    model = sw.MultiTaskModel.from_pretrained(run)
    sheet = torch.full((3, 2 * HEIGHT + GAP, 4 * WIDTH + 3 * GAP), 255, dtype=torch.uint8)
    for row, index in enumerate(STREETS):
        image = torch.from_numpy(render(seed=1, index=index, height=HEIGHT, width=WIDTH).image).permute(2, 0, 1)
        outputs = model(Resize((96, 192))(image)[None])
        panels = [image]
        for name in ("semantic", "objects", "depth"):
            task = model.tasks[name]
            prediction = task.decode(task.resize(outputs[name].detach(), (96, 192), (HEIGHT, WIDTH)))
            panels.append(task.draw(image, {key: value[0] for key, value in prediction.items()}))
        for column, panel in enumerate(panels):
            top, left = row * (HEIGHT + GAP), column * (WIDTH + GAP)
            sheet[:, top : top + HEIGHT, left : left + WIDTH] = panel
    write_image(sheet, Path(__file__).parent / "pictures" / "streets.jpg")


if __name__ == "__main__":
    main(*sys.argv[1:])
