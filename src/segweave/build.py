"""Config to live objects. The only file that knows both sides."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from segweave import checkpoint
from segweave.backbones import Encoder
from segweave.balancing import METHODS
from segweave.config import Config
from segweave.data import FORMATS
from segweave.data.augment import Augment, Resize
from segweave.data.dataset import Dataset
from segweave.data.loader import Loader, evaluation_batches
from segweave.decoders import DECODERS
from segweave.errors import CheckpointError, ConfigError
from segweave.evaluate import Results, evaluate, score
from segweave.experiment import Plan, run
from segweave.interactions import INTERACTIONS
from segweave.model import MultiTaskModel
from segweave.regularizers import REGULARIZERS
from segweave.schema import check_config
from segweave.tasks import TASKS
from segweave.tasks.task import Task


def create_model(
    tasks: Sequence[Task],
    *,
    backbone: str = "resnet50",
    decoder: str | Mapping[str, Any] = "fpn",
    interaction: str = "shared",
    pretrained: bool | str = False,
    backbone_options: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    regularizers: Mapping[str, float] | None = None,
    in_channels: int = 3,
) -> MultiTaskModel:
    """One network for several tasks.

    Args:
        tasks: what it predicts.
        backbone: any timm encoder.
        decoder: name, or `{name: fpn, shared: true, option: value}`; `shared: false` gives each task its own.
        interaction: what the tasks share.
        pretrained: timm's weights, none, or a file of encoder weights.
        backbone_options: passed to timm, such as `pad_type`, `bn_eps`, `out_indices`.
        mean, std: per band, of images in [0, 1]; by default what timm states for the encoder.
        regularizers: beta by name, on the shared parameters and the encoder's levels.
        in_channels: bands of the images.

    Raises:
        ConfigError: an unknown name, with the nearest ones.
    """
    options = {
        "backbone": backbone,
        "decoder": decoder,
        "interaction": interaction,
        "pretrained": pretrained,
        "backbone_options": dict(backbone_options or {}),
        "regularizers": dict(regularizers or {}),
        "in_channels": in_channels,
    }
    INTERACTIONS.require(interaction, "model.interaction")
    for owner, betas in [("model", regularizers), *((f"tasks.{t.name}", t.regularizers) for t in tasks)]:
        for name in betas or {}:
            REGULARIZERS.require(name, f"{owner}.regularizers")
    encoder = Encoder(backbone, pretrained, backbone_options, in_channels)
    settings = {"name": decoder} if isinstance(decoder, str) else dict(decoder)
    shared = settings.pop("shared", True)
    reads: dict[str, int | None] = {}
    own = {}
    for task in tasks:
        place = task.at or task.place
        reads[task.name] = None if place == "decoder" else encoder.level(place)
        if place == "decoder" and (task.decoder is not None or not shared):
            own[task.name] = _decoder(task.decoder or settings, encoder, f"tasks.{task.name}.decoder")
    needs_shared = any(level is None and name not in own for name, level in reads.items())
    common = _decoder(settings, encoder, "model.decoder") if needs_shared else None
    weave = INTERACTIONS.load(interaction)(reads, common, own, encoder.channels)
    spec = options | {"mean": list(mean or encoder.mean), "std": list(std or encoder.std)}
    return MultiTaskModel(tasks, encoder, weave, spec["mean"], spec["std"], regularizers, spec)


def _decoder(settings: str | Mapping[str, Any], encoder: Encoder, where: str) -> torch.nn.Module:
    options = {"name": settings} if isinstance(settings, str) else dict(settings)
    name = options.pop("name", "fpn")
    DECODERS.require(name, where)
    for key in options:
        if key not in DECODERS.options(name):
            raise ConfigError(f"{where}.{key}: unknown option; {name} has {', '.join(DECODERS.options(name))}")
    return DECODERS.load(name)(encoder.channels, encoder.strides, **options)


def build_tasks(config: Config) -> list[Task]:
    """The tasks of a config, in its order; classes that are not written are the data format's, where it knows them."""
    known = FORMATS.load(config.data["format"]).default_classes()  # pyright: ignore
    tasks = []
    for name, options in config.tasks.items():
        options = dict(options)
        kind = options.pop("kind")
        if "classes" in TASKS.options(kind) and options.get("classes") is None:
            default = known.get(options.get("source") or name) or known.get(kind)
            options["classes"] = list(default) if default else None
        tasks.append(TASKS.load(kind)(name, **options))
    return tasks


def build_dataset(config: Config, split: str, tasks: Sequence[Task]) -> Dataset:
    """One split of a config's data."""
    options = {key: value for key, value in config.data.items() if key not in ("format", "augment")}
    if "size" not in FORMATS.options(config.data["format"]):
        options.pop("size", None)
    return FORMATS.load(config.data["format"])(split, tasks, **options)


def build_validation(config: Config, dataset: Dataset, workers: int) -> Callable[[MultiTaskModel], Results]:
    resize = Resize(_size(config))
    return lambda model: evaluate(model, evaluation_batches(dataset, resize, workers=workers))


def _size(config: Config) -> Sequence[int] | None:
    return config.data.get("size")


def train(
    config: Config,
    name: str | None = None,
    out: str | Path = "runs",
    resume: bool = False,
    device: str | None = None,
    quiet: bool = False,
) -> tuple[Path, Results]:
    """Trains a checked config and returns the run folder with the best checkpoint's validation results.

    Raises:
        SegweaveError: whatever in the config or the data cannot be used.
    """
    plan = Plan(**config.train)
    torch.manual_seed(plan.seed)
    tasks = build_tasks(config)
    dataset = build_dataset(config, "train", tasks)
    validation = build_dataset(config, "val", tasks)
    for task in tasks:
        if not dataset.labelled(task.name):
            raise ConfigError(f"tasks.{task.name}: no training image has a label for it; check data.tasks and source")
        task.prepare(_targets(dataset, task))
    model = create_model(tasks, **config.model)
    workers = plan.workers if plan.workers is not None else (1 if (os.cpu_count() or 1) > 1 else 0)
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - workers))
    options = {key: value for key, value in config.balancing.items() if key != "method"}
    balancer = METHODS.load(config.balancing["method"])([task.name for task in tasks], **options)
    augment = Augment(_size(config), **(config.data.get("augment") or {}))

    def loader(start_step: int) -> Loader:
        return Loader(
            dataset,
            model.tasks,
            augment,
            batch_size=plan.batch_size,
            accumulate=plan.accumulate,
            seed=plan.seed,
            workers=workers,
            start_step=start_step,
        )

    return run(
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")),
        loader,
        build_validation(config, validation, workers),
        balancer,
        plan,
        config=config,
        fingerprint=dataset.fingerprint(),
        name=name or Path(config.source).stem,
        out=Path(out),
        resume=resume,
        quiet=quiet,
    )


def _targets(dataset: Dataset, task: Task) -> Callable[[], Any]:
    labels = (dataset.annotation(index, task.name) for index in range(len(dataset)))
    return lambda: (task.encode(label) for label in labels if label is not None)


def load_model(path: str | Path) -> MultiTaskModel:
    """The network of a run folder (its best weights), of a saved folder or of a weights file, ready to predict.

    Raises:
        CheckpointError: nothing there, or it is damaged.
    """
    path = Path(path)
    places = [path] if path.is_file() else [path / "weights" / "best.safetensors", path / "model.safetensors"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise CheckpointError(f"{path}: no network here; expected {' or '.join(str(p) for p in places)}")
    tensors, meta = checkpoint.load(found)
    tasks = [TASKS.load(spec["kind"])(**{k: v for k, v in spec.items() if k != "kind"}) for spec in meta["tasks"]]
    model = create_model(tasks, **{**meta["model"], "pretrained": False})
    model.load_state_dict(tensors)
    return model.eval()


def save_model(model: MultiTaskModel, folder: str | Path) -> Path:
    """Writes a network that `load_model` reads back, tasks and normalisation included."""
    path = Path(folder) / "model.safetensors"
    meta = {"model": model.spec, "tasks": [task.spec() for task in model.tasks.values()]}
    checkpoint.save(path, model.state_dict(), meta)
    return path


def load_run(path: str | Path, data: Config | None = None) -> tuple[MultiTaskModel, Config]:
    """A run's network, and its config with another's data where given."""
    from segweave import config as configs

    model = load_model(path)
    source = Path(path) / "config.yaml"
    own = check_config(configs.load(source), Path(path))
    return model, Config(**{**own.sections(), "data": data.data}, source=data.source) if data else own


def evaluate_run(path: str | Path, split: str = "val", data: Config | None = None, write: bool = True) -> Results:
    """Metrics of a run's best network on a split; written into the run as JSON and CSV."""
    model, config = load_run(path, data)
    dataset = build_dataset(config, split, list(model.tasks.values()))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    results = build_validation(config, dataset, 0)(model)
    if write:
        write_results(Path(path) / f"evaluation-{split}.json", results)
    return results


def score_predictions(config: Config, predictions: str | Path, split: str = "val") -> Results:
    """Metrics of prediction files of any origin against a config's labels."""
    tasks = build_tasks(config)
    return score(tasks, build_dataset(config, split, tasks), Path(predictions))


def write_results(path: Path, results: Results) -> None:
    """JSON with everything, and beside it a CSV of the plain values."""
    clean = json.loads(json.dumps(results, default=str), parse_constant=lambda _: None)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"tasks": clean}, indent=1, ensure_ascii=False), encoding="utf-8")
    rows = [f"{t},{k},{v:.4f}" for t, values in results.items() for k, v in values.items() if isinstance(v, float)]
    path.with_suffix(".csv").write_text("\n".join(["task,metric,value", *rows]) + "\n", encoding="utf-8")
