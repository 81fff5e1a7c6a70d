"""Config to live objects. The only file that knows both sides."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from segweave import terminal
from segweave.balancing import METHODS
from segweave.config import Config, load
from segweave.data import FORMATS, SAMPLINGS
from segweave.data.augment import Augment, Resize
from segweave.data.dataset import Dataset
from segweave.data.loader import Effective, Loader, evaluation_batches
from segweave.data.normalisation import measure
from segweave.data.sampling.sampling import Sampling
from segweave.errors import CheckpointError, ConfigError, SegweaveError, UnreadableError
from segweave.evaluate import Results, evaluate, score
from segweave.experiment import run
from segweave.model import MultiTaskModel, create_model
from segweave.plan import Plan
from segweave.resume import check_classes, config_changes, data_changes
from segweave.run_folder import check_folder, task_specs
from segweave.schema import check_config, data_bands
from segweave.sources import build_dataset, build_tasks, training_and_validation
from segweave.summary import write_report
from segweave.tasks.task import Task
from segweave.tracking import build_trackers

Watch = Callable[[int, MultiTaskModel, torch.optim.Optimizer, Callable[[], Effective]], None]
"""Is told before every step of a training: the number of the step, the network, its optimizer, and the batch of that
step where it is asked for."""


def build_validation(
    config: Config, dataset: Dataset, workers: int, readers: Sequence[Task] = ()
) -> Callable[[MultiTaskModel], Results]:
    """What measures a model on a data set, at the config's size; `readers` where they are not the model's tasks."""
    resize, by_name = Resize(_size(config)), {task.name: task for task in readers} or None
    return lambda model: evaluate(model, evaluation_batches(dataset, resize, workers=workers), by_name)


def build_sampling(config: Config, dataset: Dataset, tasks: Sequence[Task], plan: Plan) -> Sampling:
    """Which training images make each step. Raises ConfigError for what this data cannot give."""
    options = dict(config.data.get("sampling") or {"name": "proportional"})
    made = SAMPLINGS.load(options.pop("name"))
    size = plan.batch_size * plan.accumulate
    return made(dataset, {task.name: task for task in tasks}, size, plan.seed, **options)


def _size(config: Config) -> Sequence[int] | None:
    return config.data.get("size")


def train(
    config: Config,
    name: str | None = None,
    out: str | Path = "runs",
    resume: bool = False,
    device: str | None = None,
    quiet: bool = False,
    changed_data: bool = False,
    held_out: float | None = None,
    go_on: Callable[[int, Results], bool] | None = None,
    watch: Watch | None = None,
) -> tuple[Path, Results]:
    """Trains a checked config and returns the run folder with the best checkpoint's validation results.

    Args:
        config: from `read_config` or `check_config`.
        name: of the run; the config file's by default.
        out: the folder of runs.
        resume: goes on with the run of that name; `segweave.resume` says what of the config may be different.
        device: `cpu`, `cuda` or `cuda:N`; by default cuda where there is one.
        quiet: prints nothing.
        changed_data: goes on although files of the data have changed since the run began.
        held_out: a share of the training images, on which the run is validated in place of the split `val`.
        watch: is told before every step; must leave network and optimizer as they are.
        go_on: is asked after every validation but the last, with its step, counted from 0, and its results.

    Raises:
        SegweaveError: whatever in the config or the data cannot be used.
    """
    plan = Plan(**config.train)
    trackers = build_trackers(plan.track)
    augment = Augment(_size(config), **(config.data.get("augment") or {}))
    name = name or Path(config.source).stem
    config = _normalised_as(Path(out) / name, config) if resume else config
    changes = config_changes(Path(out) / name, config) if resume else None
    if changes is None:
        check_folder(Path(out))
    place = choose_device(device)
    torch.manual_seed(plan.seed)
    tasks = build_tasks(config)
    specs = task_specs(Path(out) / name) if resume else {}
    check_classes(Path(out) / name, tasks, specs)
    augment.check({task.name: task for task in tasks})
    dataset, validation = training_and_validation(config, tasks, plan.seed, held_out)
    fingerprints = {"train": dataset.fingerprint(), "val": validation.fingerprint()}
    if changes is not None:
        changes |= data_changes(Path(out) / name, fingerprints, changed_data)
    for task in tasks:
        if not dataset.labelled(task.name):
            raise ConfigError(f"tasks.{task.name}: no training image has a label for it; check data.tasks and source")
        _prepare(task, dataset, specs.get(task.name), quiet)
    sampling = build_sampling(config, dataset, tasks, plan)
    config = _normalised(config, dataset, quiet)
    model = create_model(tasks, **config.model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = plan.workers if plan.workers is not None else min(1, cores - 1)
    if place.type == "cpu":
        torch.set_num_threads(max(1, cores - workers))
    options = {key: value for key, value in config.balancing.items() if key != "method"}
    balancer = METHODS.load(config.balancing["method"])([task.name for task in tasks], plan.seed, **options)

    def loader(start_step: int, workers: int = workers) -> Loader:
        return Loader(
            dataset,
            model.tasks,
            augment,
            batch_size=plan.batch_size,
            accumulate=plan.accumulate,
            seed=plan.seed,
            workers=workers,
            start_step=start_step,
            sampling=sampling,
            device=place,
        )

    def told(step: int, network: MultiTaskModel, optimizer: torch.optim.Optimizer) -> None:
        assert watch is not None
        watch(step, network, optimizer, lambda: next(iter(loader(step, 0))))

    folder, results = run(
        model.to(place),
        loader,
        build_validation(config, validation, workers),
        balancer,
        plan,
        config=config,
        fingerprints=fingerprints,
        name=name,
        out=Path(out),
        changes=changes,
        trackers=trackers,
        quiet=quiet,
        go_on=go_on,
        watch=told if watch is not None else None,
    )
    if plan.report:
        try:
            write_report(folder, MultiTaskModel.from_pretrained(folder).to(place), validation, plan, _size(config))
        except (SegweaveError, OSError, MemoryError, torch.OutOfMemoryError) as error:
            # the run is complete and kept; a page of an earlier end of it would tell of something else
            (folder / "report.html").unlink(missing_ok=True)
            print(f"report not written: {error}; `segweave report {folder}` tries again", file=sys.stderr)
    return folder, results


def _prepare(task: Task, dataset: Dataset, spec: Mapping[str, Any] | None, quiet: bool) -> None:
    """Computes what a task takes from the training labels, and prints it; a run that goes on has it in its spec."""
    if spec is not None:
        task.recall(spec)
        return
    told = [*task.prepare(_targets(dataset, task)), *task.weigh(dataset.labelled(task.name), len(dataset))]
    console = terminal.console(quiet=quiet)
    for note in told:
        console.print(f"{task.name}: {note}")


def _normalised(config: Config, dataset: Dataset, quiet: bool) -> Config:
    """The config with the mean and deviation of the training images where it asks for them and has none itself."""
    wanted, given = config.data.get("normalise"), config.model
    if wanted is False or {"mean", "std"} <= given.keys():
        return config
    sets = config.data.get("sets", {"": config.data}).values()
    chosen = any(options.get("bands") is not None for options in sets)
    if wanted is None and not chosen and not _has_floats(dataset):
        return config
    console = terminal.console(quiet=quiet)

    def bar(places: Sequence[int]) -> Iterable[int]:
        return track(places, "normalisation", console=console, transient=True, disable=not console.is_terminal)

    statistics = measure(dataset, None if wanted in (None, True) else wanted, bar)
    console.print(str(statistics))
    return replace(config, model={"mean": statistics.mean, "std": statistics.std, **given})


def _has_floats(dataset: Dataset) -> bool:
    """Whether the images of one of the data sets are floats, by its first that can be read."""
    for places in dataset.sets.values():
        for place in places:
            try:
                floats = dataset.image(place).is_floating_point()
            except UnreadableError:
                continue
            if floats:
                return True
            break
    return False


def _normalised_as(folder: Path, config: Config) -> Config:
    """The config with the mean and deviation of the run that is to go on, where it has none itself."""
    source = folder / "config.yaml"
    if config.data.get("normalise") is False or not source.is_file():
        return config
    before = load(source).model
    return replace(config, model={key: before[key] for key in ("mean", "std") if key in before} | dict(config.model))


def report_run(path: str | Path, device: str | None = None) -> Path:
    """Makes `report.html`, `results.png` and `results.csv` of a run anew; returns the page.

    Args:
        path: the run folder.
        device: where the network runs and its cost is measured; by default cuda where there is one.

    Raises:
        SegweaveError: no run, one that has not been validated yet, or files that cannot be written.
    """
    model, config = load_run(path)
    dataset = build_dataset(config, "val", list(model.tasks.values()))
    place, plan = choose_device(device), Plan(**config.train)
    try:
        return write_report(Path(path), model.to(place), dataset, plan, _size(config))
    except OSError as error:
        reason = f"{error.filename}: cannot be read or written: {error.strerror}"
        raise CheckpointError(f"{reason}; expected a run that `segweave train` made") from None


def _targets(dataset: Dataset, task: Task) -> Callable[[], Iterator[Tensor]]:
    """Those of the labels that can be read; training leaves out the others and counts them."""

    def targets() -> Iterator[Tensor]:
        for index in range(len(dataset)):
            try:
                label = dataset.annotation(index, task.name)
            except UnreadableError:
                continue
            if label is not None:
                yield task.encode(label)

    return targets


def load_run(path: str | Path) -> tuple[MultiTaskModel, Config]:
    """A run's best network and its config. Raises CheckpointError or ConfigError."""
    source = Path(path) / "config.yaml"
    if not source.is_file():
        runs = sorted(str(place.parent) for place in Path(path).glob("*/config.yaml"))
        cure = f"did you mean {' or '.join(runs[:3])}?" if runs else f"expected {source}, as `segweave train` writes it"
        raise CheckpointError(f"{path}: no run here; {cure}")
    return MultiTaskModel.from_pretrained(path), check_config(load(source), Path(path))


def _readers(model: MultiTaskModel, data: Config) -> list[Task]:
    """The tasks of another config that the model has, by name; they must predict the same things."""
    readers = [task for task in build_tasks(data) if task.name in model.tasks]
    if not readers:
        raise ConfigError(f"{data.source}: tasks: found {', '.join(data.tasks)}; the run has {', '.join(model.tasks)}")
    for task in readers:
        own = model.tasks[task.name]
        described = [(t.kind, getattr(t, "classes", None)) for t in (own, task)]
        if described[0] != described[1]:
            raise ConfigError(f"{data.source}: tasks.{task.name}: found {described[1]}; the run has {described[0]}")
    return readers


def choose_device(name: str | None) -> torch.device:
    """`cpu`, `cuda` or `cuda:N` as asked; cuda where there is one by default. Raises ConfigError."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        reason = "" if reason.startswith("Expected one of") else f": {reason}"  # a list of devices of all machines
        raise ConfigError(f"--device: found {name!r}; expected cpu, cuda or cuda:N of this machine{reason}") from None
    return device


def evaluate_run(
    path: str | Path, split: str = "val", data: Config | None = None, device: str | None = None
) -> Results:
    """Metrics of a run's best network on a split; written into the run as `evaluation_file` says.

    Args:
        path: the run folder.
        split: `train`, `val`, `test` or a split of the config.
        data: a config of other data. Its tasks, where it has some, read the labels instead of the run's. Without tasks,
            those of the run are measured whose layers `data.tasks` names, or all where it names none.
        device: `cpu`, `cuda` or `cuda:N`; by default cuda where there is one.

    Raises:
        SegweaveError: no run, or data that cannot be read.
    """
    model, config = load_run(path)
    readers = list(model.tasks.values())
    if data is not None:
        config = replace(config, data=_like(config, data), tasks=data.tasks or config.tasks)
        readers = _readers(model, data) if data.tasks else _in_layers(readers, data)
    dataset = build_dataset(config, split, readers)
    results = build_validation(config, dataset, 0, readers)(model.to(choose_device(device)))
    write_results(evaluation_file(path, split, data), results)
    return results


def _like(config: Config, data: Config) -> dict[str, Any]:
    """Other data for a run, with the run's size and bands where it says nothing of them. Raises ConfigError."""
    bands, other = config.data.get("bands"), dict(data.data)
    if bands is not None and "sets" not in other and "bands" in FORMATS.options(other["format"]):
        other.setdefault("bands", bands)
    count, found = (data_bands(options) for options in (config.data, other))
    if count != found:
        raise ConfigError(f"{data.source}: data.bands: found {found} bands; the run reads {count}")
    return {"size": _size(config), **other}


def evaluation_file(run: str | Path, split: str, data: Config | None = None) -> Path:
    """`evaluation-<split>.json` in the run; of other data, `evaluation-<its config's name>-<split>.json`."""
    other = f"{Path(data.source).stem}-" if data is not None else ""
    return Path(run) / f"evaluation-{other}{split}.json"


def _in_layers(tasks: list[Task], data: Config) -> list[Task]:
    """The tasks whose labels other data names; all where it, or one of several data sets, names none."""
    named = [options.get("tasks") for options in data.data.get("sets", {"": data.data}).values()]
    layers = None if None in named else {layer for layers in named for layer in layers}
    read = {task.name: task.source or task.name for task in tasks}
    # what a derived task is made of may be another task
    read |= {task.name: read.get(read[task.name], read[task.name]) for task in tasks if task.derivation is not None}
    kept = [task for task in tasks if layers is None or read[task.name] in layers]
    if not kept:
        wanted = ", ".join(task.source or task.name for task in tasks)
        raise ConfigError(f"{data.source}: data.tasks: found {', '.join(layers or ())}; the run's tasks read {wanted}")
    return kept


def score_predictions(
    config: Config, predictions: str | Path, split: str = "val", out: str | Path | None = None
) -> Results:
    """Metrics of prediction files of any origin against a config's labels; written to `out` where given.

    Raises:
        SegweaveError: data or predictions that are missing or cannot be read.
    """
    tasks = build_tasks(config)
    results = score(tasks, build_dataset(config, split, tasks), Path(predictions))
    if out:
        write_results(Path(out), results)
    return results


def write_results(path: Path, results: Results) -> None:
    """JSON with everything to four decimals, and beside it a CSV of the metrics, also per class. Raises ConfigError."""
    rows = [["task", "metric", "value"]]
    for task, values in results.items():
        rows += [[task, key, f"{v:.4f}"] for key, v in values.items() if isinstance(v, float)]
        rows += [[task, "origin", values["origin"]]] if "origin" in values else []
        for name, row in values.get("per_class", {}).items():
            rows += [[task, f"{key}/{name}", f"{v:.4f}"] for key, v in row.items() if isinstance(v, float)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"tasks": _rounded(results)}, indent=1, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")
        with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another file") from None


def _rounded(value: Any) -> Any:
    """Floats to four decimals, null where they are not finite, which JSON does not know."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
