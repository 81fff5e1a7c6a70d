"""The statistics and the page of `benchmarks/methods.py`, on made-up numbers against scipy.stats and by hand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "methods.py"


@pytest.fixture(scope="module")
def methods() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("benchmarks_methods", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_interval_is_that_of_scipy(methods: Any, count: int) -> None:
    values = np.random.default_rng(count).normal(0.4, 0.1, count)
    mean, half = methods.interval(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-12)


def test_a_difference_is_seen_where_the_paired_t_test_sees_it(methods: Any) -> None:
    draw = np.random.default_rng(0)
    words = set()
    for shift in (-3.0, -1.5, 0.0, 1.5, 3.0):
        for _ in range(20):
            base, own = draw.normal(size=3), draw.normal(shift, size=3)
            test = stats.ttest_rel(own, base)
            better = "better" if own.mean() > base.mean() else "worse"
            wanted = better if test.pvalue < 0.05 else "no difference seen"
            assert methods.verdict((own - base).tolist(), True) == wanted
            turned = {"better": "worse", "worse": "better"}.get(wanted, wanted)
            assert methods.verdict((own - base).tolist(), False) == turned
            words.add(wanted)
    assert words == {"better", "worse", "no difference seen"}


def test_equal_runs_show_no_difference(methods: Any) -> None:
    assert methods.verdict([0.0, 0.0, 0.0], True) == "no difference seen"


def test_both_delta_m_by_hand(methods: Any) -> None:
    single = {"miou": 0.20, "pixel_accuracy": 0.50, "abs_rel": 0.25, "rmse": 0.80}
    run = {"miou": 0.22, "pixel_accuracy": 0.45, "abs_rel": 0.30, "rmse": 0.80}
    # gains of +10 %, -10 %, -20 % and 0 %
    assert methods.delta_metrics(run, single) == pytest.approx(5.0)
    assert methods.delta_tasks(run, single) == pytest.approx(-5.0)
    assert methods.delta_metrics(single, single) == methods.delta_tasks(single, single) == 0


def runs(miou: list[float], rmse: list[float]) -> list[dict[str, Any]]:
    plan = {"steps": 50, "batch_size": 4, "lr": 1e-3}
    model = {"backbone": "mobilenetv1_100", "pretrained": "weights/encoder.safetensors"}
    config = {"data": {"size": [96, 128]}, "tasks": {"semantic": {}, "depth": {}}, "model": model, "train": plan}
    made = []
    for own_miou, own_rmse in zip(miou, rmse, strict=True):
        figures = {"miou": own_miou, "pixel_accuracy": 0.5, "abs_rel": 0.2, "rmse": own_rmse}
        made.append(
            {
                "figures": figures,
                "conflicts": None,
                "skipped": 0,
                "date": "2026-01-02",
                "machine": "a machine",
                "settings": {"config": config, "code": {"segweave": "0.1.0 (commit abc)", "torch": "2.10"}},
            }
        )
    return made


def alone(made: list[dict[str, Any]], *keys: str) -> list[dict[str, Any]]:
    return [{**run, "figures": {key: run["figures"][key] for key in keys}} for run in made]


def test_the_page_says_what_the_runs_say(methods: Any) -> None:
    miou, rmse = [0.10, 0.20, 0.30], [0.80, 0.81, 0.82]
    equal = runs(miou, rmse)
    singles = {"semantic": alone(equal, "miou", "pixel_accuracy"), "depth": alone(equal, "abs_rel", "rmse")}
    # a difference far smaller than the spread over seeds, which only the pairing shows
    higher = runs([value + 0.01 + 0.001 * i for i, value in enumerate(miou)], rmse)
    text = methods.page({"equal": equal, "mgda": higher, **singles}, "python benchmarks/methods.py --seeds 3")
    assert "`python benchmarks/methods.py --seeds 3`" in text
    assert "2026-01-02; a machine" in text
    assert "segweave 0.1.0 (commit abc), torch 2.10" in text
    assert "1 lie outside their 95 % interval: `mgda` better in mIoU" in text
    row = next(line for line in text.splitlines() if line.startswith("| `mgda` | better"))
    assert row == (
        "| `mgda` | better (+1.10 ± 0.25) | no difference seen (+0.00 ± 0.00) | "
        "no difference seen (+0.0000 ± 0.0000) | no difference seen (+0.0000 ± 0.0000) |"
    )
    assert "mIoU `mgda`" in text

    noisy = runs([0.20, 0.10, 0.35], rmse)
    text = methods.page({"equal": equal, "mgda": noisy, **singles}, "python benchmarks/methods.py")
    assert "Of 4 differences between a method and `equal`, 0 lie outside their 95 % interval. Chance" in text
    assert "better" not in text
    assert text.count("no difference seen (") == 8
