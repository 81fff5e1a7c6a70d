"""Ways to train against each other: what is trained, what is measured, and what is told."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segweave import build, cli, compare
from segweave.config import Config
from segweave.data.augment import Augment
from segweave.data.loader import Loader
from segweave.errors import CheckpointError, ConfigError
from segweave.estimates import resamples
from segweave.evaluate import resampled
from segweave.metrics.segmentation import SegmentationMetric
from segweave.model import MultiTaskModel
from segweave.plan import Plan
from segweave.sources import build_dataset, build_tasks
from segweave.variants import alone
from tiny import lines, steps, tiny

CHANGED = {"upgrad": ["balancing.method=upgrad"], "pair": ["tasks=semantic,depth"]}


@pytest.fixture(scope="module")
def config() -> Config:
    return tiny(train={"epochs": 1, "patience": 1})


@pytest.fixture(scope="module")
def done(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, compare.ComparisonResult]:
    return compare.compare(config, CHANGED, seeds=2, out=tmp_path_factory.mktemp("compare"), draws=20, device="cpu")


def test_every_way_is_trained_for_the_same_steps_with_the_same_seeds(
    done: tuple[Path, compare.ComparisonResult],
) -> None:
    folder, made = done
    runs = sorted(str(path.parent.relative_to(folder / "runs")) for path in folder.glob("runs/*/*/run.json"))
    names = ["multi-task", "pair", "separate depth", "separate scene", "separate semantic", "upgrad"]
    assert runs == [f"{name}/seed-{seed}" for name in names for seed in (0, 1)]
    for run in runs:
        assert len(steps(folder / "runs" / run)) == 3  # an epoch of 12 images by 4
        assert [line["images"] for line in steps(folder / "runs" / run)] == [4, 4, 4]
    assert [variant.steps for variant in made.variants] == [3] * 4
    assert [variant.networks for variant in made.variants] == [3, 1, 1, 1]


def test_a_single_task_sees_the_same_images_in_the_same_order(config: Config) -> None:
    def seen(made: Config) -> list[tuple[Sequence[str], torch.Tensor]]:
        tasks = build_tasks(made)
        dataset = build_dataset(made, "train", tasks)
        plan = Plan(**made.train)
        sampling = build.build_sampling(made, dataset, tasks, plan)
        by_name = {task.name: task for task in tasks}
        loader = Loader(dataset, by_name, Augment(made.data["size"]), batch_size=4, seed=plan.seed, sampling=sampling)
        stream = iter(loader)
        return [(batch.ids, batch.images) for _ in range(4) for batch in next(stream).micro]

    for (ids, images), (own, same) in zip(seen(config), seen(alone(config, ["depth"])), strict=True):
        assert ids == own
        assert torch.equal(images, same)


def test_values_are_those_of_the_best_networks_on_the_test_images(
    done: tuple[Path, compare.ComparisonResult],
) -> None:
    folder, made = done
    assert (made.split, made.images) == ("test", 8)
    assert made.checkpoint == (
        "Measured on split test with the best weights, picked on the validation images by mean_relative_gain."
    )
    separate, shared = made.variants[:2]
    for seed in (0, 1):
        whole = build.evaluate_run(folder / "runs" / "multi-task" / f"seed-{seed}", "test", device="cpu")
        for task in ("semantic", "depth", "scene"):
            single = build.evaluate_run(folder / "runs" / f"separate {task}" / f"seed-{seed}", "test", device="cpu")
            for key in made.tasks[[t.name for t in made.tasks].index(task)].better:
                for variant, results in ((separate, single), (shared, whole)):
                    # sums of the same counts in another order
                    np.testing.assert_allclose(
                        variant.values[task][key].each[seed], results[task][key], rtol=1e-9, equal_nan=True
                    )


def test_gains_are_relative_to_the_separate_networks(
    done: tuple[Path, compare.ComparisonResult],
) -> None:
    made = done[1]
    separate, shared, _, pair = made.variants
    heads, every = [], []
    for task in made.tasks:
        for key, higher in task.better.items():
            old, new = (np.array(variant.values[task.name][key].each) for variant in (separate, shared))
            if key in ("outside", "invalid") or not old.mean() > 0:
                continue
            gain = 100 * (new - old) / old.mean() * (1 if higher else -1)
            np.testing.assert_allclose(shared.gains[task.name][key].each, gain, rtol=1e-9)
            every.append(gain)
            heads += [gain] if key == task.headline else []
    assert shared.by_tasks is not None
    assert shared.by_metrics is not None
    np.testing.assert_allclose(shared.by_tasks.each, np.mean(heads, axis=0), rtol=1e-9)
    np.testing.assert_allclose(shared.by_metrics.each, -np.mean(every, axis=0), rtol=1e-9)
    assert separate.gains == {}
    assert separate.by_tasks is None
    assert pair.gains.keys() == {"semantic", "depth"}


def test_costs_curves_and_pictures(done: tuple[Path, compare.ComparisonResult]) -> None:
    folder, made = done
    separate, shared, upgrad, pair = made.variants
    assert separate.cost
    assert shared.cost
    assert pair.cost
    parameters = [
        sum(p.numel() for p in MultiTaskModel.from_pretrained(folder / "runs" / name / "seed-0").parameters())
        for name in ("separate semantic", "separate depth", "separate scene", "multi-task", "pair")
    ]
    assert separate.cost["parameters"] == sum(parameters[:3])
    assert (shared.cost["parameters"], pair.cost["parameters"]) == tuple(parameters[3:])
    assert upgrad.cost == shared.cost  # another way to train is not another network
    for seed in (0, 1):
        taken = [
            sum(line.get("seconds", 0) for line in lines(folder / "runs" / f"separate {task.name}" / f"seed-{seed}"))
            for task in made.tasks
        ]
        assert separate.seconds[seed] == pytest.approx(sum(taken))
    for variant, names in ((separate, [f"separate {task.name}" for task in made.tasks]), (made.shared, ["multi-task"])):
        runs = [folder / "runs" / name / f"seed-{seed}" for name in names for seed in made.seeds]
        peaks = [line.get("peak_megabytes", 0) for run in runs for line in lines(run)]
        assert variant.training_megabytes == max(peaks) > variant.cost["peak_megabytes"] / len(names)
        logged = [line for line in lines(folder / "runs" / "multi-task" / f"seed-{seed}") if line.get("split") == "val"]
        assert shared.curves["depth"][seed] == [(line["step"], line["depth/abs_rel"]) for line in logged]
    assert len(made.pictures) == 4
    for row in made.pictures:
        columns = {task: [name for name, _ in pictures] for task, pictures in row.shown}
        assert columns == {task: ["truth", "separate", "multi-task"] for task in ("semantic", "depth")}


def test_the_files_hold_what_is_told(done: tuple[Path, compare.ComparisonResult]) -> None:
    folder, made = done
    told = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    estimate = made.variants[1].values["depth"]["rmse"]
    assert told["variants"][1]["values"]["depth"]["rmse"] == {
        "mean": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "each": list(estimate.each),
        "p": estimate.p,
    }
    assert "pictures" not in told
    text = (folder / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    for line in compare.sentences(made):
        assert line.startswith(("Sharing ", "Whether sharing "))
        assert line.replace(" -> ", " → ") in text


def test_a_finished_comparison_trains_nothing_and_a_part_of_it_only_the_rest(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = alone(config, ["depth", "scene"])
    trained: list[str] = []
    genuine = build.train

    def train(config: Config, name: str, out: Path, *rest: Any, **options: Any) -> Any:
        trained.append(f"{out.name}/{name}")
        return genuine(config, name, out, *rest, **options)

    monkeypatch.setattr(build, "train", train)
    options: dict[str, Any] = {"out": tmp_path, "draws": 5, "device": "cpu"}
    names = ("multi-task", "separate depth", "separate scene")
    first = compare.compare(config, seeds=1, **options)[1]
    assert trained == [f"{name}/seed-0" for name in names]
    trained.clear()
    second = compare.compare(config, seeds=2, **options)[1]
    assert trained == [f"{name}/seed-1" for name in names]
    trained.clear()
    third = compare.compare(config, seeds=2, **options)[1]
    assert trained == []
    for one, two, three in zip(first.variants, second.variants, third.variants, strict=True):
        assert two.values == three.values
        assert one.values["depth"]["rmse"].each[0] == two.values["depth"]["rmse"].each[0]
    with pytest.raises(CheckpointError, match=r"train\.batch_size was 4 and is 2"):
        compare.compare(replace(config, train={**config.train, "batch_size": 2}), seeds=1, **options)
    with pytest.raises(CheckpointError, match="was trained for 3 steps; expected 2"):
        compare.compare(replace(config, train={**tiny().train, "steps": 2}), seeds=1, **options)


def test_on_fewer_labels(config: Config, tmp_path: Path) -> None:
    two = alone(config, ["depth", "scene"])
    options: dict[str, Any] = {"seeds": 1, "out": tmp_path, "draws": 5, "device": "cpu"}
    folder, made = compare.compare(two, fractions=[0.5], scarce="scene", **options)
    half, scarce, whole = made.shares
    assert [(share.fraction, share.scarce) for share in made.shares] == [(0.5, ""), (0.5, "scene"), (1, "")]
    others = "multi-task, all labels of other tasks"
    assert half.labels == {name: {"depth": 6, "scene": 6} for name in ("separate", "multi-task")}
    assert scarce.labels == {others: {"depth": 12, "scene": 6}}
    assert whole.labels == {name: {"depth": 12, "scene": 12} for name in ("separate", "multi-task")}
    assert [variant.values for variant in whole.variants] == [variant.values for variant in made.variants]
    names = {"separate scene, 0.5 of the images", "multi-task, 0.5 of the images", "multi-task, 0.5 of scene"}
    assert names < {path.name for path in (folder / "runs").iterdir()}
    found = {}
    for name in names:
        assert len(steps(folder / "runs" / name / "seed-0")) == 3
        found[name] = build.evaluate_run(folder / "runs" / name / "seed-0", "test", device="cpu")["scene"]["auroc"]
    single, shared, few = (found[name] for name in sorted(names, reverse=True))
    (separate, multi), (other,) = half.variants, scarce.variants
    each = [variant.values["scene"]["auroc"].each[0] for variant in (separate, multi, other)]
    np.testing.assert_allclose(each, [single, shared, few], rtol=1e-9)
    np.testing.assert_allclose(other.gains["scene"]["auroc"].mean, 100 * (few - single) / single, rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"fraction": 0.5}, {"fractions": [0.5]}, r"data\.fraction: found beside --data-fractions"),
        ({}, {"fractions": [0.0]}, r"data\.fraction: found 0"),
        ({}, {"fractions": [0.5], "scarce": "sky"}, r"data\.fraction\.sky: no such task"),
        ({}, {"scarce": "scene"}, "--scarce scene: expected --data-fractions with it"),
    ],
)
def test_what_is_no_share(
    changes: dict[str, Any], options: dict[str, Any], message: str, config: Config, tmp_path: Path
) -> None:
    made = replace(config, data={**config.data, **changes})
    with pytest.raises(ConfigError, match=message):
        compare.compare(made, seeds=1, out=tmp_path, device="cpu", **options)


def test_several_jobs_find_the_same(config: Config, tmp_path: Path) -> None:
    single, changed = alone(config, ["scene"]), {"slow": ["train.lr=1e-4"]}
    made = [
        compare.compare(single, changed, seeds=1, out=tmp_path / str(jobs), draws=5, device="cpu", jobs=jobs)[1]
        for jobs in (1, 2)
    ]
    for one, two in zip(made[0].variants, made[1].variants, strict=True):
        assert one.name == two.name
        for key, estimate in one.values["scene"].items():
            # other numbers of threads add in another order
            np.testing.assert_allclose(estimate.each, two.values["scene"][key].each, rtol=1e-3, equal_nan=True)


def test_on_the_images_that_choose_the_last_weights_are_measured(config: Config, tmp_path: Path) -> None:
    folder, made = compare.compare(config, seeds=1, separate=False, out=tmp_path, split="val", draws=5, device="cpu")
    assert made.checkpoint.startswith("Measured on the validation images with the weights after the last step")
    assert [variant.name for variant in made.variants] == ["multi-task"]
    assert compare.sentences(made) == []
    last = lines(folder / "runs" / "multi-task" / "seed-0")[-1]
    for task, table in made.variants[0].values.items():
        for key, estimate in table.items():
            logged = last[f"{task}/{key}"]
            np.testing.assert_allclose(estimate.mean, math.nan if logged is None else logged, rtol=1e-6, equal_nan=True)


def test_a_variant_with_other_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--variant more: its data has other images in split 'val'"):
        compare.compare(
            tiny(train={"steps": 1}),
            {"more": ["data.count=60"]},
            seeds=1,
            separate=False,
            out=tmp_path,
            split="val",
            device="cpu",
        )


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "data: {format: synthetic, size: [48, 80], count: 8}\n"
        "tasks: {depth: {kind: depth}, scene: {kind: classification}}\n"
        "model: {backbone: test_resnet, decoder: {name: fpn, width: 16}}\n"
        "train: {steps: 1, batch_size: 4, workers: 0}\n"
    )
    command = ["segweave", "compare", str(path), "train.lr=1e-4", "--seeds", "1", "--resamples", "5"]
    command += ["--variant", "slow train.lr=1e-5", "--out", str(tmp_path / "out"), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().out
    assert not ended.value.code
    assert shown.count("Sharing ") + shown.count("Whether sharing ") == 2
    assert f"report: {tmp_path / 'out' / 'report.html'}" in shown.replace("\n", "")
    told = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert shlex.split(told["command"]) == command
    assert [variant["name"] for variant in told["variants"]] == ["separate", "multi-task", "slow"]


@given(seed=st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_a_resample_is_the_metric_of_images_that_occur_so_often(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 4, (2, 1, 5, 6), generator=generator) for _ in range(4)]

    def measured(places: Sequence[int]) -> SegmentationMetric:
        metric = SegmentationMetric(["a", "b", "c"], 3)
        for place in places:
            metric.update({"labels": images[place][0]}, images[place][1])
        return metric

    counts = resamples(5, 6, seed)
    found = resampled(measured([]), [*(measured([place]) for place in range(4)), None], counts)
    for row, times in enumerate(counts):
        whole = measured(np.repeat(np.arange(4), times[:4]).tolist()).compute()
        np.testing.assert_allclose([found[key][row] for key in whole], list(whole.values()), rtol=1e-12)
