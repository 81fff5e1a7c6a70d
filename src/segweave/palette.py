"""The colours of classes in masks and pictures."""

from __future__ import annotations

import numpy as np


def default_palette(count: int) -> list[tuple[int, int, int]]:
    """`count` colours for overlays: 256 distinct ones, then they repeat; a shorter palette begins a longer one.

    The first seven are those of Okabe and Ito. Each further one is farthest from all before it in lightness and from
    blue to yellow; red against green counts for less, because many readers do not see it.
    """
    okabe_ito = np.frombuffer(bytes.fromhex("0072b2e69f00009e73d55e0056b4e9cc79a7f0e442"), np.uint8).reshape(7, 3)
    colours = np.concatenate([okabe_ito, np.indices((13, 13, 13)).reshape(3, -1).T * 255 // 12])
    seen = colours @ np.array([[0.3, 0.59, 0.11], [-0.25, -0.25, 0.5], [0.17, -0.17, 0.0]]).T
    # Near-black and near-white hide under or on an image.
    visible = (seen[:, 0] > 60) & (seen[:, 0] < 225)
    colours, seen = colours[visible], seen[visible]
    distance, order = np.full(len(colours), np.inf), list[int]()
    for step in range(min(count, 256)):
        order.append(step if step < len(okabe_ito) else int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(seen - seen[order[-1]], axis=1))
    return [(int(r), int(g), int(b)) for r, g, b in (colours[order[index % 256]] for index in range(count))]
