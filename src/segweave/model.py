"""The network: backbone -> interaction -> heads -> `{task: raw output}`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jaxtyping import Float
from torch import Tensor, nn

from segweave import checkpoint
from segweave.backbones import Backbone, Encoder
from segweave.catalogue import check
from segweave.decoders import DECODERS
from segweave.decoders.decoder import Decoder
from segweave.errors import CheckpointError, ConfigError
from segweave.interactions import INTERACTIONS
from segweave.interactions.interaction import Features, Interaction
from segweave.reach import closing_layer
from segweave.regularizers.regularizer import check_regularizers
from segweave.tasks import TASKS
from segweave.tasks.task import Prediction, Task

_WEIGHTS = "model.safetensors"


class MultiTaskModel(nn.Module, ModelHubMixin, library_name="segweave", tags=["multi-task-learning"]):
    """One encoder, several heads. Any image size in, that size out.

    Args:
        tasks: in the order of the outputs.
        encoder: the shared backbone.
        interaction: what stands between it and the heads.
        mean, std: per band, of integer images in [0, 1], of floats as they are; normalisation is part of the network.
        regularizers: beta by name, for the shared parameters and the encoder's levels.
        spec: plain values to rebuild the network from.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        tasks: Sequence[Task],
        encoder: Backbone,
        interaction: Interaction,
        mean: Sequence[float],
        std: Sequence[float],
        regularizers: Mapping[str, float] | None = None,
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.tasks = {task.name: task for task in tasks}
        self.encoder = encoder
        self.interaction = interaction
        read = {task.name: (interaction.channels[task.name], interaction.strides[task.name]) for task in tasks}
        self.heads = nn.ModuleDict({task.name: task.head(*read[task.name]) for task in tasks})
        self.regularizers = dict(regularizers or {})
        self.spec = dict(spec or {})
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=True)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=True)

    @property
    def bands(self) -> int | list[int] | None:
        """The bands of a file that it sees, as `rasters.read_image` takes them; None for photographs."""
        given = self.spec.get("in_channels", 3)
        return given if isinstance(given, list) else None if given == 3 else given

    def features(self, images: Float[Tensor, "B C H W"]) -> tuple[Features, list[Tensor]]:
        """Images in [0, 1] to what the heads read, and the encoder's levels."""
        height, width = images.shape[-2:]
        tall, wide = self.encoder.padded(height, width)
        normalised = (images - self.mean) / self.std
        if (tall, wide) != (height, width):
            # a constant border would have no variance for a layer norm to divide by, and gradients without bound
            normalised = nn.functional.pad(normalised, (0, wide - width, 0, tall - height), mode="replicate")
        levels = self.encoder(normalised)
        # views end the paths from one level to the next, along which a task's gradient at the levels would run too
        return self.interaction([level.view_as(level) for level in levels]), levels

    def outputs(
        self, features: Features, height: int, width: int, rows: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Raw output per task, of its `rows` only where given; tasks without a row are left out.

        Args:
            height, width: of the images, without padding.
            rows: int64 indices by task; None runs every head on every image. A head sees only its rows, unless an
                interaction reads its output, it is compiled or holds a SyncBatchNorm (all processes must agree), or
                batch normalisation would see a single image. The output has these rows either way.
        """
        padded = self.encoder.padded(height, width)
        outputs = {}
        for name, head in self.heads.items():
            maps = features.per_task[name]
            wanted = rows.get(name) if rows is not None else None
            if rows is not None and (wanted is None or len(wanted) == 0):
                continue
            if wanted is None or len(wanted) == len(maps[0]):
                output = head(maps, *padded)
            elif self._needs_all_rows(head, len(wanted)):
                output = head(maps, *padded)[wanted]
            else:
                output = head([level[wanted] for level in maps], *padded)
            outputs[name] = output[..., :height, :width] if self.tasks[name].dense and output.ndim == 4 else output
        return outputs

    def _needs_all_rows(self, head: nn.Module, count: int) -> bool:
        """Whether a head must see unlabelled images too: its normalisation, its compiled shape or another task asks."""
        compiled = hasattr(head, "_orig_mod") or head._compiled_call_impl is not None
        if compiled or self.interaction.reads_outputs:
            return True
        norms = [m for m in head.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        return any(isinstance(m, nn.SyncBatchNorm) or (count == 1 and m.training) for m in norms)

    def forward(self, images: Float[Tensor, "B C H W"]) -> dict[str, Tensor]:
        """Images in [0, 1] to the raw output of every task, at the images' size."""
        features, _ = self.features(images)
        return self.outputs(features, images.shape[-2], images.shape[-1])

    def compile(self, **options: Any) -> None:
        """Runs the encoder, the interaction and each head through `torch.compile`, in place; names and values stay.

        They are parts of their own, so that a method that balances tasks can differentiate each head alone.

        Args:
            options: of `torch.compile`.
        """
        # a graph that several tasks are differentiated through is gone through more than once
        from torch._functorch import config

        config.donated_buffer = False
        for part in (self.encoder, self.interaction, *self.heads.values()):
            part.compile(**options)

    @torch.inference_mode()
    def predict(self, images: Float[Tensor, "B C H W"]) -> dict[str, Prediction]:
        """Images in [0, 1] to decoded predictions per task."""
        used = (images.shape[-2], images.shape[-1])
        outputs = self(images).items()
        return {n: self.tasks[n].decode(self.tasks[n].resize(output, used, used)) for n, output in outputs}

    def private(self) -> dict[str, list[nn.Parameter]]:
        """Parameters that only one task uses, by task."""
        return {name: [*self.interaction.private(name), *self.heads[name].parameters()] for name in self.tasks}

    def shared(self) -> list[nn.Parameter]:
        """Parameters that no single task owns."""
        owned = {id(p) for parameters in self.private().values() for p in parameters}
        return [p for p in self.parameters() if id(p) not in owned]

    def closing(self) -> list[nn.Parameter]:
        """Parameters of the last layer that all tasks read, see `reach.closing_layer`; found by trying it once."""
        size = 2 * max(self.encoder.strides)
        modes = [(module, module.training) for module in self.modules()]
        try:
            with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
                features, _ = self.eval().features(self.mean.new_zeros(1, self.mean.shape[1], size, size))
                return closing_layer(features.per_task)
        finally:
            for module, training in modes:
                module.training = training

    def _apply(self, fn: Any, recurse: bool = True) -> MultiTaskModel:
        """`to`, `cuda` and the like: the class weights that the tasks' losses hold go along."""
        for task in self.tasks.values():
            task.criteria._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def save(self, path: Path) -> None:
        """Writes one file: the tensors, and what is needed to build the network again."""
        checkpoint.save(path, self.state_dict(), self._recipe())

    def _recipe(self) -> dict[str, Any]:
        return {"model": self.spec, "tasks": [task.spec() for task in self.tasks.values()]}

    def _save_pretrained(self, save_directory: Path) -> None:
        """For `save_pretrained` and `push_to_hub`: the weights, and the recipe once more for people to read."""
        self.save(save_directory / _WEIGHTS)
        recipe = {"task_order": list(self.tasks), **self._recipe()}
        (save_directory / "config.json").write_text(json.dumps(recipe, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | Path,
        encoder: Backbone | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> MultiTaskModel:
        """A network ready to predict, in eval mode on the CPU.

        Args:
            pretrained_model_name_or_path: a run folder (its best weights), a folder of `save_pretrained`, a weights
                file, or a repository of the Hugging Face Hub.
            encoder: for a network that was made with an encoder of the program's own: a new one of the same make.
            revision, token, cache_dir, force_download, local_files_only: of the Hub.

        Raises:
            CheckpointError: nothing there, or it is damaged.
        """
        path = Path(pretrained_model_name_or_path)
        places = [path] if path.is_file() else [path / "weights" / "best.safetensors", path / _WEIGHTS]
        found = next((place for place in places if place.is_file()), None)
        if found is None and not path.exists() and len(path.parts) == 2 and not path.is_absolute():
            options = {"revision": revision, "token": token, "cache_dir": cache_dir, "force_download": force_download}
            try:
                found = Path(hf_hub_download(str(path), _WEIGHTS, local_files_only=local_files_only, **options))
            except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
                reason = str(error).strip().splitlines()[0]
                raise CheckpointError(f"{path}: no such folder, and not to be had from the Hub: {reason}") from None
        if found is None:
            raise CheckpointError(f"{path}: no network here; expected {' or '.join(str(p) for p in places)}")
        tensors, recipe = checkpoint.load(found)
        if not {"tasks", "model"} <= recipe.keys():
            raise CheckpointError(f"{found}: not the weights of a network; expected best.safetensors or {_WEIGHTS}")
        tasks = [_rebuilt(spec, found) for spec in recipe["tasks"]]
        if (recipe["model"]["backbone"] is None) != (encoder is not None):
            cure = "pass one of the same make as `encoder`" if encoder is None else "leave `encoder` out"
            kind = "an encoder of its program's own" if encoder is None else "a timm encoder"
            raise CheckpointError(f"{found}: this network has {kind}; {cure}")
        options = {key: value for key, value in recipe["model"].items() if key != "backbone" or value is not None}
        model = create_model(tasks, encoder, **{**options, "pretrained": False})
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{found}: its tensors do not fit the network it describes: {reason}") from None
        return model.eval()


def _rebuilt(spec: Mapping[str, Any], source: Path) -> Task:
    """The task that `Task.spec` described. Raises CheckpointError where this version knows no such task."""
    kind, options = str(spec.get("kind")), {key: value for key, value in spec.items() if key not in ("kind", "name")}
    try:
        unknown = sorted(options.keys() - TASKS.options(kind).keys())
        if not unknown:
            return TASKS.load(kind)(spec["name"], **options)
        reason = f"task {spec['name']!r} has the unknown options {', '.join(unknown)}"
    except ConfigError as error:
        reason = str(error)
    raise CheckpointError(f"{source}: {reason}; a newer segweave may have written it: update segweave")


def create_model(
    tasks: Sequence[Task],
    encoder: Backbone | None = None,
    *,
    backbone: str = "resnet50",
    decoder: str | Mapping[str, Any] = "fpn",
    interaction: str = "shared",
    pretrained: bool | str = False,
    backbone_options: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    regularizers: Mapping[str, float] | None = None,
    in_channels: int | Sequence[int] = 3,
) -> MultiTaskModel:
    """One network for several tasks.

    Args:
        tasks: what it predicts.
        encoder: one of the program's own, such as a `CustomBackbone`, instead of `backbone`.
        backbone: any timm encoder.
        decoder: name, or `{name: fpn, shared: true, option: value}`; `shared: false` gives each task its own.
        interaction: what the tasks share.
        pretrained: timm's weights, none, or a file of encoder weights.
        backbone_options: passed to timm, such as `pad_type`, `bn_eps`, `out_indices`.
        mean, std: per band, of integer images in [0, 1] and of floats as they are; by default what timm states for the
            encoder. `segweave train` computes them where `data.normalise` says so.
        regularizers: beta by name, on the shared parameters and the encoder's levels.
        in_channels: how many bands the images have, or which of a file's they are, from 1: `data.bands` sets it.

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
        "in_channels": in_channels if isinstance(in_channels, int) else list(in_channels),
    }
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"tasks: found the names {names}; expected at least one task, each with a name of its own")
    INTERACTIONS.require(interaction, "model.interaction")
    check_regularizers(regularizers, "model.regularizers", "shared")
    for task in tasks:
        check_regularizers(task.regularizers, f"tasks.{task.name}.regularizers", task.form)
    given = encoder is not None
    bands = in_channels if isinstance(in_channels, int) else len(in_channels)
    encoder = encoder or Encoder(backbone, pretrained, backbone_options, bands)
    settings = {"name": decoder} if isinstance(decoder, str) else dict(decoder)
    shared = settings.pop("shared", True)
    if not isinstance(shared, bool):
        raise ConfigError(f"model.decoder.shared: found {shared!r}; expected true or false")
    reads: dict[str, int | str] = {}
    own = {}
    for task in tasks:
        place = task.at or task.place
        if place == "pyramid" != task.place:
            raise ConfigError(f"tasks.{task.name}.at: {task.kind} reads a single map; expected decoder or a level")
        try:
            reads[task.name] = {"decoder": "map", "pyramid": "pyramid"}.get(place) or encoder.level(place)
        except ConfigError as error:
            raise ConfigError(f"tasks.{task.name}.{error}") from None
        if isinstance(reads[task.name], str) and (task.decoder is not None or not shared):
            own[task.name] = _decoder(task.decoder or settings, encoder, f"tasks.{task.name}.decoder")
    needs_shared = any(isinstance(place, str) and name not in own for name, place in reads.items())
    common = _decoder(settings, encoder, "model.decoder") if needs_shared else None
    weave = INTERACTIONS.load(interaction)(reads, common, own, encoder.channels, encoder.strides)
    spec = options | {"mean": list(mean or encoder.mean), "std": list(std or encoder.std)}
    for key in ("mean", "std"):
        bands = len(encoder.mean) if given else bands
        if len(spec[key]) != bands or (key == "std" and not min(spec[key]) > 0):
            above = ", each above 0" if key == "std" else ""
            raise ConfigError(f"model.{key}: found {spec[key]}; expected {bands} numbers, one per band{above}")
    spec |= {"backbone": None} if given else {}
    return MultiTaskModel(tasks, encoder, weave, spec["mean"], spec["std"], regularizers, spec)


def _decoder(settings: str | Mapping[str, Any], encoder: Backbone, where: str) -> Decoder:
    options = {"name": settings} if isinstance(settings, str) else dict(settings)
    name = options.pop("name", "fpn")
    if not isinstance(name, str):
        raise ConfigError(f"{where}.name: found {name!r}; expected one of {', '.join(DECODERS)}")
    DECODERS.require(name, where)
    options = check(options, DECODERS.options(name), where)
    try:
        return DECODERS.load(name)(encoder.channels, encoder.strides, **options)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from None
