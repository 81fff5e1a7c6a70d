"""Search for weights, rate and method: what is tried, on which images it is scored, and what a stop leaves."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from segweave import build, cli
from segweave import tune as tuning
from segweave.config import Config
from segweave.data.subset import hold_out
from segweave.data.synthetic import Synthetic
from segweave.errors import ConfigError, DivergedError
from segweave.schema import read_config
from segweave.search_space import Choice, Range, search_space, tried
from segweave.sources import build_dataset, build_tasks, training_and_validation, training_images
from segweave.tasks import Classification, Depth
from segweave.tune import tune
from segweave.variants import alone, variants, written
from tiny import lines, steps, tiny

RATES = ["train.lr=1e-4..1e-2"]


@pytest.fixture
def two() -> Config:
    """Two tasks, validated after every epoch of 3 steps."""
    config = tiny(data={"size": [32, 48], "count": 6}, train={"steps": 6, "batch_size": 2})
    return replace(config, tasks={name: config.tasks[name] for name in ("semantic", "depth")})


def without_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the synthetic data no split `test`."""
    monkeypatch.setattr(Synthetic, "splits", property(lambda _: ("train", "val")))


def test_the_default_space_is_weights_rate_and_regularisers_around_their_own_values() -> None:
    config = tiny(train={"lr": 2e-3})
    tasks = {**config.tasks, "depth": {**config.tasks["depth"], "weight": 0.5}}
    space = search_space(replace(config, tasks=tasks))
    expected = {
        "tasks.depth.weight": (0.05, 0.5, 5),
        "tasks.scene.weight": (0.1, 1, 10),
        "train.lr": (4e-4, 2e-3, 1e-2),
        "model.regularizers.feature_norm": (1e-6, 1e-4, 1e-2),
        "tasks.depth.regularizers.weight_decay": (1e-6, 1e-4, 1e-2),
    }
    assert [dimension.key for dimension in space] == list(expected)
    for dimension in space:
        assert isinstance(dimension, Range)
        assert dimension.log
        assert (dimension.low, dimension.own, dimension.high) == pytest.approx(expected[dimension.key], rel=1e-12)


def test_a_task_that_is_not_predicted_or_weighed_by_its_labels_has_no_weight_to_search() -> None:
    config = tiny()
    changed = {"semantic": {"predict": False}, "scene": {"weight": {"labels": 0.5}}}
    tasks = {name: {**options, **changed.get(name, {})} for name, options in config.tasks.items()}
    keys = [dimension.key for dimension in search_space(replace(config, tasks=tasks))]
    assert keys == ["train.lr", "model.regularizers.feature_norm", "tasks.depth.regularizers.weight_decay"]


def test_a_space_as_it_is_written() -> None:
    written = ["train.lr=1e-4..1e-2", "train.weight_decay=0..1", "train.warmup=0..4", "train.schedule=constant, poly"]
    rate, decay, warmup, schedule, method = search_space(tiny(), written, ["upgrad", "equal"])
    assert rate == Range("train.lr", 1e-4, 1e-2, 1e-3)
    assert [d.log for d in (rate, decay, warmup) if isinstance(d, Range)] == [True, False, False]
    assert not Range("a", 1, 9.9, 2).log
    assert Range("a", 1, 10, 2).log
    assert warmup == Range("train.warmup", 0, 4, 0, whole=True)
    assert rate.change(0.00123456) == "train.lr=0.001235"  # pyright: ignore[reportArgumentType]
    assert warmup.change(3) == "train.warmup=3"  # pyright: ignore[reportArgumentType]
    assert schedule == Choice("train.schedule", ["poly", "constant"], "poly")
    assert method == Choice("balancing.method", ["equal", "upgrad"], "equal")


@pytest.mark.parametrize(
    ("search", "methods", "message"),
    [
        (["train.lr"], [], "--search train.lr: expected KEY=LOW..HIGH or KEY=a,b,c"),
        (["train.lr=1e-4..fast"], [], "found 1e-4..fast; expected two numbers"),
        (["train.lr=1e-2..1e-1"], [], "the config has train.lr=0.001; expected LOW below HIGH and a number between"),
        (["train.lr=1e-2..1e-4"], [], "expected LOW below HIGH"),
        (["train.clip=0.1..1"], [], "the config has train.clip=null"),
        (["train.lr=-1..1"], [], r"train.lr=-1: train.lr: found -1"),
        (["train.lt=1e-4..1e-2"], [], "the config has no train.lt; nearest: 'train.lr'"),
        (["nothing=1..2"], [], "the config has no nothing"),
        (["tasks.depth.loss=l1,silog,l1"], [], "expected each once"),
        (["model.decoder=unet,fpn"], [], "expected a key with a single value"),
        (["train.schedule=poly"], [], "expected each once, and one other than poly"),
        (["train.schedule=poly,slow"], [], "train.schedule=slow: train.schedule: found 'slow'"),
        (["train.steps=2..8"], [], "expected no other images, budget or seed"),
        (["train.seed=0..8"], [], "expected no other images, budget or seed"),
        (["data.count=4..20"], [], "expected no other images, budget or seed"),
        (["tasks.depth.predict=true,false"], [], "predicts semantic, scene; expected the same tasks"),
        ([*RATES, *RATES], [], "--search train.lr: found twice"),
        ([], ["upgrade"], "unknown balancing method 'upgrade'; nearest: 'upgrad'"),
        ([], ["equal"], "--methods: found equal; expected each once, and one other than equal"),
    ],
)
def test_what_is_no_space(search: list[str], methods: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        search_space(tiny(), search, methods)
    assert message in str(raised.value)


def test_the_score_is_the_mean_relative_gain_of_the_headlines() -> None:
    tasks = build_tasks(tiny())  # mIoU, absolute relative error (lower is better), AUROC
    old = {"semantic": 0.4, "depth": 0.2, "scene": 0.8}
    new = {"semantic": 0.5, "depth": 0.25, "scene": 0.6}
    changes = np.array([(0.5 - 0.4) / 0.4, -(0.25 - 0.2) / 0.2, (0.6 - 0.8) / 0.8])
    assert tuning.delta_m(new, old, tasks) == pytest.approx(100 * changes.mean(), rel=1e-12)
    assert tuning.delta_m(old, old, tasks) == 0
    assert math.isnan(tuning.delta_m(new, {**old, "depth": 0.0}, tasks))
    assert math.isnan(tuning.delta_m({**new, "scene": math.nan}, old, tasks))


@pytest.mark.parametrize(("count", "length"), [(40, 1), (200, 4), (2000, 16)])
def test_runs_of_neighbours_are_held_out(count: int, length: int) -> None:
    tasks = [Depth("depth"), Classification("scene", classes=Synthetic.default_classes()["scene"])]
    whole = Synthetic("train", tasks, size=[16, 24], count=count)
    left, held = hold_out(whole, 0.2, ["depth", "scene"], seed=3)
    assert not set(left.ids) & set(held.ids)
    assert sorted([*left.ids, *held.ids]) == sorted(whole.ids)
    assert len(held) == pytest.approx(0.2 * count, abs=length)
    places = [list(whole.ids).index(id) for id in held.ids]
    assert places == sorted(places)
    starts = {place // length for place in places}
    assert len(starts) == round(0.2 * math.ceil(count / length))
    assert len(left.fingerprint() + held.fingerprint() + whole.fingerprint()) == 3 * 64
    assert len({left.fingerprint(), held.fingerprint(), whole.fingerprint()}) == 3
    again, other = (hold_out(whole, 0.2, ["depth", "scene"], seed)[1] for seed in (3, 4))
    assert again.ids == held.ids
    assert other.ids != held.ids
    np.testing.assert_array_equal(held.image(0), whole.image(places[0]))


def test_a_part_without_a_label_is_refused() -> None:
    whole = Synthetic("train", [Depth("depth")], size=[16, 24], count=4)
    with pytest.raises(ConfigError, match=r"tasks\.depth: found no label for it among the 0 of 4 training images"):
        hold_out(whole, 0.1, ["depth"], seed=0)


def test_the_images_that_compare_measures_on_choose_nothing(
    two: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_test(monkeypatch)
    read: set[str] = set()
    for name in ("__getitem__", "image", "annotation"):
        genuine = getattr(Synthetic, name)

        def noted(self: Synthetic, index: int, *rest: Any, genuine: Callable[..., Any] = genuine) -> Any:
            read.add(self.ids[index])
            return genuine(self, index, *rest)

        monkeypatch.setattr(Synthetic, name, noted)
    folder, tuned = tune(two, trials=1, out=tmp_path, device="cpu")
    tasks = build_tasks(two)
    training, held = training_and_validation(two, tasks, 0, 0.2)
    whole, validation = training_images(two, tasks, 0), build_dataset(two, "val", tasks)
    assert tuned.images == "1 of the 6 training images, held out: `compare` measures on split val"
    assert (len(training), len(held)) == (5, 1)
    assert read == set(whole.ids)
    assert not read & set(validation.ids)
    results = lines(folder / "trial-0000")[-1]
    model = build.MultiTaskModel.from_pretrained(folder / "trial-0000" / "weights" / "last.safetensors")
    found = build.build_validation(two, held, 0)(model)
    # the same weights on the same images, in the same order
    assert results["depth/abs_rel"] == pytest.approx(found["depth"]["abs_rel"], rel=1e-6)
    assert len(steps(folder / "trial-0000")) == 6


def test_a_search_from_end_to_end(two: Config, tmp_path: Path) -> None:
    folder, tuned = tune(two, trials=3, methods=["upgrad"], out=tmp_path, device="cpu")
    assert tuned.images == "the 8 images of split val: `compare` measures on split test"
    first, *others = tuned.trials
    assert (first.changes, first.gain, first.state) == ([], 0.0, "finished")
    config = read_config(folder / "trial-0000" / "config.yaml")
    limits = {"steps": 6, "epochs": None, "minutes": None, "patience": None}
    assert config.sections() == {**two.sections(), "train": {**two.train, **limits}}
    for trial in others:
        assert [change.partition("=")[0] for change in trial.changes] == [
            "tasks.depth.weight",
            "train.lr",
            "model.regularizers.feature_norm",
            "tasks.depth.regularizers.weight_decay",
            "balancing.method",
        ]
        last = lines(folder / f"trial-{trial.number:04d}")[-1]
        assert trial.headlines == {"semantic": last["semantic/miou"], "depth": last["depth/abs_rel"]}
        gains = [last[key] / lines(folder / "trial-0000")[-1][key] - 1 for key in ("semantic/miou", "depth/abs_rel")]
        assert trial.gain == pytest.approx(100 * (gains[0] - gains[1]) / 2, rel=1e-9)
        trained = read_config(folder / f"trial-{trial.number:04d}" / "config.yaml")
        rate = next(change for change in trial.changes if change.startswith("train.lr="))
        assert trained.train["lr"] == float(rate.partition("=")[2])
        assert trained.train["steps"] == 6
    best = max(tuned.trials, key=lambda trial: trial.gain or 0)
    assert tuned.best == best
    told = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    assert told["best"] == best.number
    assert [trial["gain"] for trial in told["trials"]] == [trial.gain for trial in tuned.trials]
    chosen = read_config(folder / "best.yaml").sections()
    assert chosen == tried(two, best.changes).sections()
    for trial in others:
        name, changes = written(f"tuned {' '.join(trial.changes)}")
        assert variants(two, {name: changes}, separate=False)[1].config == tried(two, trial.changes)


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(
    two: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = alone(two, ["depth"])
    options: dict[str, Any] = {"search": RATES, "device": "cpu"}
    whole = tune(two, trials=3, out=tmp_path / "whole", **options)[1]
    trained: list[str] = []
    genuine = build.train

    def train(config: Config, name: str, out: Path, *rest: Any, go_on: Any, **more: Any) -> Any:
        trained.append(name)

        def stop(step: int, results: Any) -> bool:
            if trained == ["trial-0000", "trial-0001"]:
                raise KeyboardInterrupt
            return go_on(step, results)

        return genuine(config, name, out, *rest, go_on=stop, **more)

    monkeypatch.setattr(build, "train", train)
    with pytest.raises(KeyboardInterrupt):
        tune(two, trials=3, out=tmp_path / "part", **options)
    assert trained == ["trial-0000", "trial-0001"]
    assert [t["number"] for t in json.loads((tmp_path / "part" / "tune.json").read_text())["trials"]] == [0]
    trained += ["again"]
    part = tune(two, trials=3, out=tmp_path / "part", **options)[1]
    assert trained[3:] == ["trial-0001", "trial-0002"]
    assert part == whole
    assert sorted(path.name for path in (tmp_path / "part").glob("trial-*")) == [f"trial-000{n}" for n in range(3)]
    trained.clear()
    assert tune(two, trials=3, out=tmp_path / "part", **options)[1] == whole
    assert trained == []
    rates = [trial.values["train.lr"] for trial in whole.trials]
    assert len(set(rates)) == 3


def test_another_search_in_the_same_folder_is_refused(two: Config, tmp_path: Path) -> None:
    short = replace(two, train={**two.train, "steps": 1})
    options: dict[str, Any] = {"trials": 1, "out": tmp_path, "device": "cpu"}
    tune(short, search=RATES, **options)
    with pytest.raises(ConfigError, match=r"was tuned otherwise: train\.batch_size was 2 and is 4; choose another"):
        tune(replace(short, train={**short.train, "batch_size": 4}), search=RATES, **options)
    with pytest.raises(ConfigError, match=r"was tuned otherwise: tune\.search was "):
        tune(short, **options)
    tune(replace(short, train={**short.train, "workers": None}), search=RATES, **options)


def test_a_pruned_trial_stops_early_and_trial_0_never_does(
    two: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[int, float]] = []

    class Impatient(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:  # noqa: ARG002
            asked.append(dict(trial.intermediate_values))
            return bool(trial.intermediate_values)

    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda *_: Impatient())
    folder, tuned = tune(two, trials=2, search=RATES, out=tmp_path, device="cpu")
    assert [trial.state for trial in tuned.trials] == ["finished", "pruned"]
    assert [len(steps(folder / f"trial-000{n}")) for n in (0, 1)] == [6, 3]
    assert tuned.trials[1].gain is None
    assert tuned.best.number == 0
    first, second = (lines(folder / f"trial-000{n}") for n in (0, 1))
    heads = [
        {task: next(line for line in run if line.get("split"))[f"{task}/{key}"] for task, key in HEADLINES.items()}
        for run in (second, first)
    ]
    assert asked[-1] == {2: pytest.approx(tuning.delta_m(*heads, build_tasks(two)), rel=1e-9)}
    assert "2 trials of 6 steps: 1 finished, 1 pruned." in tuning.sentences(tuned)[0]


HEADLINES = {"semantic": "miou", "depth": "abs_rel"}


def test_a_trial_that_diverges_is_given_up_and_the_first_is_an_error(
    two: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, doomed = build.train, ["trial-0001"]

    def train(config: Config, name: str, *rest: Any, **more: Any) -> Any:
        if name in doomed:
            raise DivergedError("the loss was not finite")
        return genuine(config, name, *rest, **more)

    monkeypatch.setattr(build, "train", train)
    short = replace(two, train={**two.train, "steps": 1})
    tuned = tune(short, trials=3, search=RATES, out=tmp_path / "one", device="cpu")[1]
    assert [trial.state for trial in tuned.trials] == ["finished", "diverged", "finished"]
    doomed[:] = ["trial-0000"]
    with pytest.raises(DivergedError):
        tune(short, trials=1, search=RATES, out=tmp_path / "other", device="cpu")


def test_a_headline_of_0_that_no_gain_is_relative_to(
    two: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_validations", lambda *_: {0: {"semantic": 0.0, "depth": 0.5}})
    short = replace(two, train={**two.train, "steps": 1})
    with pytest.raises(ConfigError, match=r"found the headlines \{'semantic': 0.0\}; .* tasks\.semantic\.predict=fal"):
        tune(short, trials=1, search=RATES, out=tmp_path, device="cpu")


def test_without_optuna(two: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "segweave.study", raising=False)
    monkeypatch.delattr("segweave.study", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r'tune needs optuna: pip install "segweave\[tune\]"'):
        tune(two, out=tmp_path, device="cpu")


@pytest.mark.parametrize(("options", "message"), [({"trials": 0}, "--trials: found 0"), ({"share": 1}, "--holdout")])
def test_what_is_no_search(options: dict[str, Any], message: str, two: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(two, out=tmp_path, device="cpu", **options)


def test_the_command_ends_with_one_for_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    path.write_text(
        "data: {format: synthetic, size: [32, 48], count: 8}\n"
        "tasks: {semantic: {kind: semantic}, depth: {kind: depth}}\n"
        "model: {backbone: test_resnet, decoder: {name: fpn, width: 16}}\n"
        "train: {epochs: 2, batch_size: 4, workers: 0, lr: 1.0e-3}\n"
    )
    monkeypatch.chdir(tmp_path)
    # by chance the config itself may be the best after so few steps
    monkeypatch.setattr(tuning, "delta_m", lambda new, old, _: float(new != old))

    def run(*command: str) -> str:
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    shown = run(*f"segweave tune tiny.yaml train.epochs=1 --trials 2 --out {out} --device cpu".split())
    assert "2 trials of 2 steps: 2 finished. Scored on the 8 images of split val" in shown
    assert "That is a small search: 2 trials for 2 keys." in shown
    told = json.loads((out / "tune.json").read_text(encoding="utf-8"))
    assert told["best"] == 1
    line = next(line for line in shown.splitlines() if line.startswith("  segweave compare"))
    words = shlex.split(line)
    assert words[:5] == ["segweave", "compare", "tiny.yaml", "train.epochs=1", "--variant"]
    run(*words, "--seeds", "1", "--resamples", "5", "--no-separate", "--device", "cpu", "--out", str(tmp_path / "c"))
    made = read_config(tmp_path / "c" / "runs" / "tuned" / "seed-0" / "config.yaml")
    best = read_config(out / "best.yaml")
    assert made.tasks == best.tasks
    assert made.model == best.model
    assert made.train["lr"] == best.train["lr"]
