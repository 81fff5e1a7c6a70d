"""`results.png`: losses and metrics of a training run in one picture."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from segweave.report.history import History, Point, log_scale, smoothed, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#1b59b3", "#b4500c", "#1b7a43", "#a3268f", "#6a4bc4", "#0c7480", "#8a6100", "#c02a45")
_ROW, _WIDTH, _TALLEST = 2.7, 13.5, 16_000
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC", "Arial Unicode MS")


def curves_png(history: History, tasks: Mapping[str, tuple[str, Mapping[str, bool], str]]) -> bytes:
    """A row for the whole (total loss, learning rate, gradient norm) and one for every task (its losses, its headline
    metric, its other metrics).

    Args:
        tasks: by name, the headline's key, every key with whether higher is better, and how labels came about that
            nobody annotated.
    """
    from matplotlib import font_manager
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 1 + len(tasks)
    dpi = min(110.0, _TALLEST / (_ROW * rows))
    figure = Figure((_WIDTH, _ROW * rows), dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 3, squeeze=False)
    names = {"total": "total loss", "lr": "learning rate", "grad_norm": "gradient norm"}
    for place, (key, title) in enumerate(names.items()):
        _training(axes[0][place], title, {title: history.training.get(key, [])})
    for row, (task, (headline, better, origin)) in zip(axes[1:], tasks.items(), strict=True):
        lines = {k.split("/")[2]: v for k, v in history.training.items() if k.startswith(f"loss/{task}/")}
        if len(lines) != 1:  # a single term is the whole
            lines = {"all terms": history.training.get(f"loss/{task}", []), **lines}
        _training(row[0], f"{task}: losses", lines)
        arrow = "↑" if better[headline] else "↓"
        title = f"{task}: {headline} {arrow}" + (f"\n{origin}" if origin else "")
        _metric(row[1], title, history.validation.get(f"{task}/{headline}", []), better[headline])
        others = {key: history.validation.get(f"{task}/{key}", []) for key in better if key != headline}
        _metrics(row[2], f"{task}: other metrics", {k: v for k, v in others.items() if any(y for _, y in v)}, better)
    known = set(font_manager.get_font_names())
    families = [family for family in _FONTS if family in known]
    for axis in axes.flat:
        texts = [axis.title, axis.xaxis.label, *(axis.get_legend().get_texts() if axis.get_legend() else ())]
        for text in texts:
            text.set_family(families)
            text.set_parse_math(False)
    file = io.BytesIO()
    with warnings.catch_warnings():
        # a name in letters that no font here has is drawn as boxes; the page shows it right
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(file, format="png")
    return file.getvalue()


def _frame(axis: Axes, title: str, values: Sequence[float]) -> None:
    axis.set_title(title, fontsize=10, loc="left", fontweight="bold")
    axis.grid(color="#d5dce4", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#75828f")
    axis.tick_params(labelsize=8, colors="#4b5866")
    if log_scale(values):
        axis.set_yscale("log")
    if not values:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", va="center", color="#4b5866")
        axis.set_xticks([])
        axis.set_yticks([])


def _training(axis: Axes, title: str, lines: Mapping[str, Sequence[Point]]) -> None:
    drawn = {name: points for name, points in lines.items() if points}
    means = {name: smoothed(points) for name, points in drawn.items()}
    _frame(axis, title, [value for points in means.values() for _, value in points])
    for place, (name, points) in enumerate(drawn.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        marker = "o" if len(points) == 1 else None
        axis.plot(*_columns(thinned(points, 2000)), color=colour, alpha=0.25, linewidth=0.7)
        axis.plot(*_columns(thinned(means[name], 2000)), color=colour, linewidth=1.7, label=name, marker=marker)
    if len(drawn) > 1:
        axis.legend(fontsize=8, frameon=False)


def _metric(axis: Axes, title: str, points: Sequence[Point], higher_is_better: bool) -> None:
    _frame(axis, title, [value for _, value in points])
    if points:
        axis.plot(
            *_columns(points), color=_COLOURS[0], linewidth=1.7, marker="o" if len(points) <= 40 else None, ms=3.5
        )
        step, value = (max if higher_is_better else min)(points, key=lambda point: point[1])
        axis.plot([step], [value], "o", color=_COLOURS[1], ms=7, label=f"best {value:.4g} at step {step:,.0f}")
        axis.legend(fontsize=8, frameon=False)


def _metrics(axis: Axes, title: str, lines: Mapping[str, Sequence[Point]], better: Mapping[str, bool]) -> None:
    _frame(axis, title, [value for points in lines.values() for _, value in points])
    for place, (name, points) in enumerate(lines.items()):
        style = "-" if place < len(_COLOURS) else "--"
        marker = "o" if len(points) <= 40 else None
        label = f"{name} {'↑' if better[name] else '↓'}"
        colour = _COLOURS[place % len(_COLOURS)]
        axis.plot(*_columns(points), style, color=colour, linewidth=1.4, marker=marker, ms=3, label=label)
    if lines:
        axis.legend(fontsize=8, frameon=False, ncols=2 if len(lines) > 4 else 1)


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
