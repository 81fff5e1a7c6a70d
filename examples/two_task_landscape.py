"""Two tasks of two parameters, where the plain sum of the losses gets stuck: which methods find the Pareto front?

    python examples/two_task_landscape.py [--out PICTURE] [--methods NAME...]

The toy problem of CAGrad (Liu et al. 2021, figure 1), with the five starts of the programs of Nash-MTL (Navon et al.
2022, appendix B) and FAMO (Liu et al. 2023, section 5.1), which scale the first loss by 0.1 and take 35,000 and 50,000
steps of Adam at a rate of 0.001. Unless told otherwise this takes a fifth of FAMO's steps at five times its rate: as
far, in minutes. All starts descend together, and segweave's own methods give the weights.

In figure 1 of Nash-MTL the plain sum, PCGrad and CAGrad do not arrive from the right, as here; in that of FAMO only the
plain sum does not. FAMO's program clips the gradients of PCGrad and CAGrad to a length of 1, so that the steep walls do
not fill Adam's second moment: `--clip 1`, with which PCGrad leaves the valley.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from segweave.balancing import METHODS
from segweave.balancing.balancer import GramianBalancer, LossBalancer

TASKS = ("first", "second")
STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
STEPS, RATE, SCALE = 10_000, 5e-3, 0.1
LOWEST = -21.0
"""Below both losses: FAMO takes the logarithm of what lies above it."""
NEAR = 0.1
"""Distance to the Pareto front, in unscaled losses, which run from -20 to 0 along it, that counts as reached."""

_CENTRE, _SIGN, _FLOOR = np.array([-7.0, 7.0]), np.array([1.0, -1.0]), 5e-6
_GREY = "#75828f"
_STEPS = LinearSegmentedColormap.from_list("steps", colormaps["magma_r"](np.linspace(0.2, 0.85, 64)))
_START: dict[str, Any] = {"marker": "o", "color": "black", "ms": 4.5}
_END: dict[bool, dict[str, Any]] = {
    True: {"marker": "o", "color": "white", "ms": 5.5, "markeredgecolor": "black", "markeredgewidth": 0.9},
    False: {"marker": "X", "color": "#c02a45", "ms": 8, "markeredgecolor": "black", "markeredgewidth": 0.8},
}


class Shown(NamedTuple):
    """How a method is called in its paper, and its options in the toy programs where they are not the defaults."""

    title: str
    options: Mapping[str, Any] = {}


SHOWN = {
    "equal": Shown("LS (plain sum)"),
    "mgda": Shown("MGDA"),
    "pcgrad": Shown("PCGrad"),
    "cagrad": Shown("CAGrad", {"c": 0.4}),
    "imtl_g": Shown("IMTL-G"),
    "nash_mtl": Shown("Nash-MTL"),
    "famo": Shown("FAMO", {"weight_decay": 0.0}),
    "aligned_mtl": Shown("Aligned-MTL"),
    "fairgrad": Shown("FairGrad (α = 2)", {"alpha": 2.0}),
    "upgrad": Shown("UPGrad"),
}


def problem(at: Float[np.ndarray, "*s 2"]) -> tuple[Float[np.ndarray, "*s 2"], Float[np.ndarray, "*s 2 2"]]:
    """Both losses, unscaled, and their gradients, one a row.

    `L_i = c_1 f_i + c_2 g_i`. Where y > 0, two valleys with steep walls: `f_1 = ln max(|(-x - 7) / 2 + tanh y|, 5e-6)
    + 6` and `f_2 = ln max(|(-x + 3) / 2 - tanh y + 2|, 5e-6) + 6`, with `c_1 = max(tanh(y / 2), 0)`. Where y < 0, two
    bowls: `g_i = ((x -+ 7)^2 + (y + 8)^2 / 10) / 10 - 20`, with `c_2 = max(-tanh(y / 2), 0)`. At y = 0, where neither
    has a derivative, it is the sum of those of both sides, as in the PyTorch of the authors.
    """
    x, y = at[..., :1], at[..., 1:]
    inner = (_CENTRE - x) / 2 + _SIGN * np.tanh(y)
    f = np.log(np.maximum(np.abs(inner), _FLOOR)) + 6
    f_inner = 1 / np.where(np.abs(inner) >= _FLOOR, inner, np.inf)
    g = ((x - 7 * _SIGN) ** 2 + (y + 8) ** 2 / 10) / 10 - 20
    half = np.tanh(y / 2)
    c_1, c_2 = np.maximum(half, 0), np.maximum(-half, 0)
    slope = (1 - half**2) / 2
    along_x = -c_1 * f_inner / 2 + c_2 * (x - 7 * _SIGN) / 5
    along_y = c_1 * f_inner * _SIGN * (1 - np.tanh(y) ** 2) + c_2 * (y + 8) / 50 + slope * ((y >= 0) * f - (y <= 0) * g)
    return c_1 * f + c_2 * g, np.stack([along_x, along_y], -1)


def descend(
    name: str,
    starts: Float[np.ndarray, "s 2"],
    steps: int,
    *,
    scale: float = SCALE,
    rate: float = RATE,
    clip: float = math.inf,
) -> Float[np.ndarray, "t s 2"]:
    """Where a method goes from every start, by Adam on all of them at once; a method of its own for each.

    Args:
        scale: factor of the first loss.
        rate: of Adam.
        clip: longest gradient that Adam gets to see.
    """
    balancers = [METHODS.load(name)(TASKS, **SHOWN[name].options) for _ in starts]
    factors = np.array([scale, 1.0])
    path = np.empty((steps + 1, *starts.shape))
    path[0] = starts
    mean, square = np.zeros_like(starts), np.zeros_like(starts)
    losses, rows = _scaled(starts, factors)
    for step in range(1, steps + 1):
        weights = [_weights(*one) for one in zip(balancers, losses, rows @ rows.mT, strict=True)]
        gradient = (torch.stack(weights).to(rows)[:, None] @ rows)[:, 0].numpy()
        gradient *= np.minimum(1, clip / (np.linalg.norm(gradient, axis=1, keepdims=True) + 1e-6))
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        path[step] = path[step - 1] - rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        losses, rows = _scaled(path[step], factors)
        for balancer, now in zip(balancers, losses, strict=True):
            balancer.after(TASKS, lambda now=now: now)
            balancer.memory.step += 1
    return path


def _scaled(
    at: Float[np.ndarray, "s 2"], factors: Float[np.ndarray, " t"]
) -> tuple[Float[Tensor, "s 2"], Float[Tensor, "s 2 2"]]:
    """What the methods read: the losses above their lower bound, float32 as in training, and the gradients."""
    losses, rows = problem(at)
    return torch.from_numpy((losses - LOWEST) * factors).float(), torch.from_numpy(rows * factors[:, None])


def _weights(
    balancer: GramianBalancer | LossBalancer, losses: Float[Tensor, " t"], gramian: Float[Tensor, "t t"]
) -> Float[Tensor, " t"]:
    if isinstance(balancer, GramianBalancer):
        return balancer.weigh(gramian, TASKS, losses, True)
    return balancer.combine(losses, TASKS, True, losses)[1]


def pareto_front() -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """Points that no other point betters in both losses, by increasing first loss; and their losses.

    They minimise the weighted sums of the losses, which is all of the front because it is convex: each is the best
    point of a grid, then of ever finer ones around it.
    """
    shares = np.linspace(1, 0, 701)
    weights = np.stack([shares, 1 - shares])
    side = np.linspace(-11, 11, 221)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    points = grid[(problem(grid)[0] @ weights).argmin(0)]
    around = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, 5)]), -1).reshape(-1, 1, 2)
    for radius in 0.1 * 0.6 ** np.arange(25):
        near = points + radius * around
        best = (problem(near)[0] * weights.T).sum(-1).argmin(0)
        points = near[best, np.arange(len(points))]
    return points, problem(points)[0]


def distances(losses: Float[np.ndarray, "s 2"], front: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " s"]:
    """From unscaled losses to the nearest losses of the front."""
    return np.linalg.norm(losses[:, None] - front, axis=-1).min(1)


def draw(
    paths: Mapping[str, Float[np.ndarray, "t s 2"]],
    front: tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]],
    scale: float,
) -> UInt8[np.ndarray, "h w 3"]:
    """For each method the descents over the contours of the mean of both losses, and below in the plane of the losses.

    Args:
        front: `pareto_front`.
        scale: factor of the first loss.
    """
    columns = min(5, len(paths))
    blocks = -(-len(paths) // columns)
    figure = Figure((2.4 * columns + 0.3, 4.5 * blocks + 0.4), dpi=110, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(2 * blocks, columns, squeeze=False, height_ratios=[2.3, 1.8] * blocks)
    for axis in axes[-2:, len(paths) - columns * blocks + columns :].flat:
        axis.set_visible(False)
    factors = np.array([scale, 1.0])
    for place, (name, path) in enumerate(paths.items()):
        above, below = axes[2 * (place // columns) : 2 * (place // columns) + 2, place % columns]
        losses = problem(path)[0]
        reached = distances(losses[-1], front[1]) < NEAR
        _contours(above)
        for axis, points, line in ((above, path, front[0]), (below, losses * factors, front[1] * factors)):
            axis.plot(*line.T, color=_GREY, linewidth=5, solid_capstyle="round", zorder=2)
            for start, arrived in enumerate(reached):
                _trace(axis, points[:, start], bool(arrived))
            axis.tick_params(labelsize=7.5, colors="#4b5866", length=2, pad=2)
            for spine in axis.spines.values():
                spine.set_color("#75828f")
        above.set_title(SHOWN[name].title, fontsize=10, loc="left", fontweight="bold", pad=4)
        verdict = f"{reached.sum()} of {len(reached)}"
        above.set_title(verdict, fontsize=10, loc="right", color="#1b7a43" if reached.all() else "#c02a45", pad=4)
        below.set_xlabel("first loss" if scale == 1 else f"first loss × {scale:g}", fontsize=8, labelpad=2)
        if place % columns == 0:
            below.set_ylabel("second loss", fontsize=8, labelpad=2)
    handles = [
        Line2D([], [], color=_GREY, linewidth=5, label="Pareto front"),
        Line2D([], [], color=_STEPS(0.0), linewidth=2, label="first steps"),
        Line2D([], [], color=_STEPS(1.0), linewidth=2, label="last steps"),
        Line2D([], [], linestyle="", label="start", **_START),
        Line2D([], [], linestyle="", label="end, on the front", **_END[True]),
        Line2D([], [], linestyle="", label="end, elsewhere", **_END[False]),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _contours(axis: Axes) -> None:
    side = np.linspace(-11, 11, 221)
    heights = problem(np.stack(np.meshgrid(side, side), -1))[0].mean(-1)
    levels = np.arange(-16, 11, 2)
    axis.contourf(side, side, heights, levels=levels, cmap="GnBu_r", alpha=0.45)
    axis.contour(side, side, heights, levels=levels, colors="white", linewidths=0.7, linestyles="solid")
    axis.set(xlim=(-11, 11), ylim=(-11, 11), xticks=(-10, 0, 10), yticks=(-10, 0, 10), aspect="equal")


def _trace(axis: Axes, points: Float[np.ndarray, "t 2"], arrived: bool) -> None:
    thin = points[:: max(1, len(points) // 1000)]
    pieces = list(np.stack([thin[:-1], thin[1:]], 1))
    lines = LineCollection(pieces, cmap=_STEPS, array=np.arange(len(pieces)), linewidths=1.8, zorder=3)
    axis.add_collection(lines)
    axis.plot(*points[0], zorder=4, **_START)
    axis.plot(*points[-1], zorder=5, **_END[arrived])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Which methods find the Pareto front of two tasks?")
    parser.add_argument("--out", type=Path, default=Path("two_task_landscape.png"), help="picture to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="of Adam, from every start")
    parser.add_argument(
        "--methods", nargs="+", choices=SHOWN, default=list(SHOWN), metavar="NAME", help=", ".join(SHOWN)
    )
    parser.add_argument("--rate", type=float, default=RATE, help="of Adam; 0.001 in the papers, with 50,000 steps")
    parser.add_argument("--scale", type=float, default=SCALE, help="factor of the first loss; 1 in CAGrad's paper")
    parser.add_argument("--clip", type=float, default=math.inf, help="longest gradient that Adam gets to see")
    chosen = parser.parse_args(arguments)
    front = pareto_front()
    table = Table("method", "start", "first loss", "second loss", "distance to the front", "reached")
    paths = {}
    for name in track(chosen.methods, "descending"):
        paths[name] = descend(
            name, np.array(STARTS), chosen.steps, scale=chosen.scale, rate=chosen.rate, clip=chosen.clip
        )
        losses = problem(paths[name][-1])[0]
        away = distances(losses, front[1])
        for start, (first, second), distance in zip(STARTS, losses, away, strict=True):
            numbers = (f"{first:.3f}", f"{second:.3f}", f"{distance:.3f}")
            table.add_row(name, str(start), *numbers, "yes" if distance < NEAR else "no")
        table.add_section()
    # a palette makes the file a third as large
    picture = Image.fromarray(draw(paths, front, chosen.scale)).quantize(method=Image.Quantize.MAXCOVERAGE)
    picture.save(chosen.out, optimize=True)
    Console().print(table)
    print(f"final losses before the factor {chosen.scale:g} of the first; reached: nearer than {NEAR:g} to the front")
    print(f"look at: {chosen.out}")


if __name__ == "__main__":
    main()
