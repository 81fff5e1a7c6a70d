"""Advice on which tasks to train together: what is trained, what is measured, what is proposed and written."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch

from segweave import advise, build, cli
from segweave.affinities import Probing, matrix, pair, probed
from segweave.config import Config, load
from segweave.cost import cost_table
from segweave.data.loader import Effective
from segweave.errors import ConfigError
from segweave.model import MultiTaskModel
from segweave.report.advised import AdviceResult, Measure
from segweave.schema import check_config
from segweave.variants import alone
from test_train import batch, network
from tiny import steps, tiny

TASKS = ("semantic", "depth", "scene")


@pytest.fixture(scope="module")
def config() -> Config:
    # a long schedule, whose tenth is below the least that advice trains for
    return tiny(train={"steps": 400, "warmup": 30, "lr": 3e-3}, data={"count": 16})


@pytest.fixture(scope="module")
def done(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AdviceResult]:
    importance = {"depth": 2.0}
    out = tmp_path_factory.mktemp("advise")
    return advise.advise(config, steps=6, seeds=1, importance=importance, out=out, draws=10, device="cpu")


def measures(made: AdviceResult) -> Mapping[str, Measure]:
    return {one.key: one for one in made.measures}


def test_short_runs_of_all_single_and_paired_tasks(done: tuple[Path, AdviceResult]) -> None:
    folder, made = done
    names = ["multi-task", *(f"separate {name}" for name in TASKS), *(pair(*two) for two in combinations(TASKS, 2))]
    runs = sorted(str(path.parent.relative_to(folder / "runs")) for path in folder.glob("runs/*/*/run.json"))
    assert runs == sorted(f"{name}/seed-{seed}" for name in names for seed in (0,))
    for run in runs:
        made_steps = steps(folder / "runs" / run)
        assert len(made_steps) == 6
        # the warm-up of a long schedule would be all that there is of a short one
        rates = [line["lr"] for line in made_steps]
        assert rates.index(max(rates)) <= 2
    assert (made.steps, made.planned, list(made.seeds)) == (6, 400, [0])


def test_without_a_number_of_steps_it_is_a_tenth_of_them_and_no_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []

    class Stopped(Exception):
        pass

    def train(config: Config, *_: Any, **__: Any) -> Any:
        trained.append(config.train["steps"])
        raise Stopped

    monkeypatch.setattr(build, "train", train)
    for planned, expected in ((400, 50), (3000, 300), (20, 20)):
        changed = tiny(train={"steps": planned})
        with pytest.raises(Stopped):
            advise.advise(changed, out=tmp_path / str(planned), device="cpu")
        assert trained[-1] == expected


def test_transfer_is_the_gain_of_a_pair_over_single_networks(done: tuple[Path, AdviceResult]) -> None:
    folder, made = done
    found = measures(made)["transfer"]
    assert made.split == "val"  # never on the images that `compare` measures on

    def headline(name: str, task: str) -> float:
        results = build.evaluate_run(folder / "runs" / name / "seed-0", "val", device="cpu")
        return float(results[task][next(one.headline for one in made.tasks if one.name == task)])

    for (i, a), (j, b) in combinations(enumerate(TASKS), 2):
        for (task, place), other in (((a, i), j), ((b, j), i)):
            single, both = (np.array([headline(name, task)]) for name in (f"separate {task}", pair(a, b)))
            sign = 1 if made.tasks[place].better else -1
            expected = sign * 100 * (both - single) / single.mean()
            np.testing.assert_allclose(found.values[place][other].each, expected, rtol=1e-9)
    assert all(np.isnan(found.values[i][i].mean) for i in range(3))


def test_gradients_are_compared_during_the_training(done: tuple[Path, AdviceResult]) -> None:
    folder, made = done
    file = folder / "runs" / "multi-task" / "seed-0" / "relatedness.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 6))
    for key in ("lookahead", "cosine"):
        found = measures(made)[key]
        for i, a in enumerate(TASKS):
            for j, b in enumerate(TASKS):
                if key == "cosine" and i == j:
                    continue
                mean = fmean(line[key][i][j] for line in lines)
                assert found.values[i][j].each == (pytest.approx(mean, rel=1e-12),)
                if j > i or (key == "lookahead" and j != i):
                    curve = found.curves[f"{a}|{b}"]
                    assert curve == [[(line["step"], line[key][i][j]) for line in lines]]
    alike = matrix(measures(made)["cka"])
    np.testing.assert_array_equal(alike, alike.T)
    assert np.nanmax(alike) <= 1


def test_the_best_grouping_comes_first_and_costs_what_was_measured(done: tuple[Path, AdviceResult]) -> None:
    folder, made = done
    transfer = matrix(measures(made)["transfer"])
    weights = np.array([1.0, 2.0, 1.0])
    for one in made.proposals:
        for group in one.groups:
            places = [TASKS.index(name) for name in group]
            for place in places:
                brought = [transfer[place, other] for other in places if other != place]
                assert one.gains[TASKS[place]] == pytest.approx(fmean(brought) if brought else 0.0)
        assert one.gain == pytest.approx(np.average([one.gains[name] for name in TASKS], weights=weights))
    assert made.proposals[0].gain == max(one.gain for one in made.proposals)
    assert len(made.proposals) == 5  # all ways to divide three tasks
    titles = {one.title: [list(group) for group in one.groups] for one in made.proposals if one.title}
    assert titles == {"all together": [list(TASKS)], "each by itself": [[name] for name in TASKS]}
    together = next(one for one in made.proposals if one.title == "all together")
    model = MultiTaskModel.from_pretrained(folder / "runs" / "multi-task" / "seed-0")
    assert together.cost["parameters"] == sum(p.numel() for p in model.parameters())
    table = cost_table(model, 48, 80, repeats=1)
    apart = next(one for one in made.proposals if one.title == "each by itself")
    assert apart.cost["macs"] == table["separate_sum"]["macs"]


def test_what_there_is_to_learn_from(done: tuple[Path, AdviceResult]) -> None:
    made = done[1]
    assert [(task.name, task.labelled, task.images, task.importance) for task in made.tasks] == [
        ("semantic", 16, 16, 1.0),
        ("depth", 16, 16, 2.0),
        ("scene", 16, 16, 1.0),
    ]
    for task in made.tasks:
        assert len(task.seconds) == 1
        assert min(task.seconds) > 0
        assert task.alone is not None


def test_a_config_is_written_for_each_network(done: tuple[Path, AdviceResult], config: Config) -> None:
    best = done[1].proposals[0]
    assert len(best.configs) == len(best.groups)
    for path, group in zip(best.configs, best.groups, strict=True):
        written = check_config(load(path))
        assert written.sections() == alone(config, group).sections()
        assert [name for name, options in written.tasks.items() if options.get("predict", True)] == list(group)


def test_a_second_time_nothing_is_trained(
    done: tuple[Path, AdviceResult], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first = done
    monkeypatch.delattr(build, "train")
    again = advise.advise(config, steps=6, seeds=1, out=folder, draws=10, pairs=False, device="cpu")[1]
    assert [one.key for one in again.measures] == ["lookahead", "cosine", "cka"]
    assert again.measures[0] == measures(first)["lookahead"]
    assert "Without pairs" in again.notes[0]


def test_of_a_run_that_was_stopped_the_last_word_counts(tmp_path: Path) -> None:
    def line(step: int, value: float | None) -> str:
        rows = [[1.0, value], [value, 1.0]]
        return json.dumps({"step": step, "tasks": ["b", "a"], "cosine": rows, "lookahead": rows})

    (tmp_path / "relatedness.jsonl").write_text("\n".join([line(2, 0.9), line(4, 0.5), line(4, 0.1), line(6, None)]))
    other = tmp_path / "other"
    other.mkdir()
    (other / "relatedness.jsonl").write_text(line(2, -0.5))
    lookahead, cosine = probed(["a", "b", "c"], [tmp_path, other])
    assert cosine.values[0][1].each == (pytest.approx(0.5), -0.5)
    assert cosine.values[0][1].mean == pytest.approx(0.0)
    assert lookahead.curves["b|a"] == [[(2, 0.9), (4, 0.1)], [(2, -0.5)]]
    assert np.isnan(cosine.values[0][2].mean)  # a task that had no label


def test_two_tasks_are_their_own_pair(tmp_path: Path) -> None:
    two = alone(tiny(train={"steps": 4}), ["depth", "scene"])
    made = advise.advise(two, steps=4, seeds=1, out=tmp_path, draws=5, device="cpu")[1]
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == ["multi-task", "separate depth", "separate scene"]
    assert np.isfinite(matrix(made.measures[0])[0, 1])
    assert len(made.proposals) == 2


def test_no_step_is_looked_into_before_the_heads_have_learnt(tmp_path: Path) -> None:
    model, asked = network(), []

    def next_batch() -> Effective:
        asked.append(len(asked))
        return Effective(3, 0, [batch()])

    watch = Probing(3, tmp_path, 0)
    for step in range(5):
        watch(step, model, torch.optim.SGD(model.parameters(), 0.1), next_batch)
    assert asked == [0]
    (line,) = (tmp_path / "relatedness.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance": {"sky": 1.0}}, "--importance sky: no such task; expected some of semantic, depth, scene"),
        ({"importance": {"depth": -1.0}}, "--importance depth: found -1.0; expected a number of at least 0"),
        ({"importance": dict.fromkeys(TASKS, 0.0)}, "--importance: found 0 for every task"),
        ({"seeds": 0}, "--seeds: found 0; expected at least 1"),
        ({"steps": 2}, "--steps: found 2; expected at least 4"),
    ],
)
def test_what_cannot_be_asked(config: Config, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        advise.advise(config, out=tmp_path, **options)


def test_limits_that_no_grouping_keeps(done: tuple[Path, AdviceResult], config: Config) -> None:
    with pytest.raises(ConfigError, match=r"limits: found parameters 1000; .* semantic, depth, scene \(a bar"):
        advise.advise(config, steps=6, seeds=1, out=done[0], draws=10, device="cpu", limits={"parameters": 1000})


def test_one_task_and_a_budget_in_minutes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tasks: found depth; expected two or more to advise on"):
        advise.advise(alone(tiny(), ["depth"]), out=tmp_path)
    with pytest.raises(ConfigError, match=r"train\.minutes: .* expected --steps"):
        advise.advise(tiny(train={"minutes": 1, "steps": None}), out=tmp_path)


def test_the_command(
    done: tuple[Path, AdviceResult],
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = done[0]
    source = tmp_path / "town.yaml"
    source.write_text(json.dumps(config.sections()), encoding="utf-8")
    words = f"segweave advise {source} --steps 6 --seeds 1 --importance depth=2 --max-networks 1 --resamples 10"
    monkeypatch.setattr("sys.argv", [*shlex.split(words), "--out", str(folder), "--device", "cpu"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code in (0, None)
    told = capsys.readouterr().out
    assert "Train all tasks in one network." in told
    assert f"config: {folder}/groups/1-semantic-depth-scene.yaml" in told
    assert "each by itself, beyond the limits" in told.replace("\n", " ")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "segweave advise" in page
    assert json.loads((folder / "advice.json").read_text())["limits"] == {"networks": 1}
    # only the configs of the last advice are there
    assert [path.name for path in (folder / "groups").iterdir()] == ["1-semantic-depth-scene.yaml"]
