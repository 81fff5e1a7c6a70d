"""The network as a whole: what it is built from, what comes out, and that it comes back from disk."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import segweave as sw
from segweave.backbones import CustomBackbone
from segweave.errors import CheckpointError, ConfigError
from segweave.model import MultiTaskModel, create_model
from segweave.tasks import Classification, Depth, Semantic
from segweave.tasks.task import Task


def tasks() -> list[Task]:
    return [
        Semantic("semantic", classes=5, class_weights=[1, 2, 3, 4, 5]),
        Depth("depth", max_depth=30, regularizers={"weight_decay": 0.1}),
        Classification("scene", classes=["a", "b", "c"]),
    ]


def network(**options: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    return create_model(tasks(), **{"backbone": "test_resnet", "decoder": {"name": "fpn", "width": 16}, **options})


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 12, 2, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.first(images).relu()
        return [fine, self.second(fine)]


@pytest.mark.parametrize("decoder", [{"shared": True}, {"shared": False}], ids=["shared", "own"])
@pytest.mark.parametrize("size", [(64, 64), (37, 51), (1, 1), (130, 33)])
def test_any_size_in_that_size_out(decoder: dict, size: tuple[int, int]) -> None:
    model = network(decoder={"name": "fpn", "width": 8, **decoder}).train()
    outputs = model(torch.rand(1, 3, *size))
    assert outputs["semantic"].shape == (1, 5, *size)
    assert outputs["depth"].shape == (1, 1, *size)
    assert outputs["scene"].shape == (1, 3)
    assert all(output.isfinite().all() for output in outputs.values())
    predictions = model.eval().predict(torch.rand(2, 3, *size))
    assert predictions["semantic"]["labels"].shape == (2, *size)
    assert predictions["depth"]["depth"].max() <= 30


@pytest.mark.parametrize("at", ["decoder", "encoder", "stride16", "stride8"])
def test_a_head_reads_where_it_is_told(at: str) -> None:
    torch.manual_seed(0)
    model = create_model(
        [Semantic("semantic", classes=5), Depth("depth", at=at)], backbone="test_resnet", decoder={"name": "fpn"}
    )
    read: list[tuple[int, ...]] = []
    model.heads["depth"].register_forward_pre_hook(lambda _, args: read.append(tuple(args[0][0].shape[2:])))
    assert model(torch.rand(1, 3, 64, 96))["depth"].shape == (1, 1, 64, 96)
    stride = {"decoder": 4, "encoder": max(model.encoder.strides), "stride16": 16, "stride8": 8}[at]
    assert read == [(64 // stride, 96 // stride)]


def test_a_level_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"tasks\.depth\.at: 'layer9' is no level .*stride16"):
        create_model([Depth("depth", at="layer9")], backbone="test_resnet")


def test_a_task_may_have_a_decoder_of_its_own() -> None:
    model = create_model(
        [Semantic("semantic", classes=5), Depth("depth", decoder={"name": "fpn", "width": 24}), Depth("other")],
        backbone="test_resnet",
        decoder={"name": "fpn", "width": 16},
    )
    own = {name: sum(p.numel() for p in parameters) for name, parameters in model.private().items()}
    assert own["depth"] > own["other"] > 0
    everything = {id(p) for p in model.parameters()}
    parts = [{id(p) for p in ps} for ps in [*model.private().values(), model.shared()]]
    assert set().union(*parts) == everything
    assert sum(map(len, parts)) == len(everything)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet5O"}, r"'resnet50'"),
        ({"decoder": "fpm"}, r"model\.decoder: unknown decoder 'fpm'; nearest: 'fpn'"),
        ({"decoder": {"name": "fpn", "widht": 3}}, r"model\.decoder\.widht: unknown key; did you mean 'width'"),
        ({"interaction": "shard"}, r"model\.interaction: .*nearest: 'shared'"),
        ({"regularizers": {"weight_dekay": 1}}, r"model\.regularizers: .*'weight_decay'"),
    ],
)
def test_unknown_names_are_errors_with_the_nearest(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        network(**options)


def test_normalisation_is_part_of_the_network() -> None:
    given = network(mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 1.0])
    seen: list[Tensor] = []
    given.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    given(torch.full((1, 3, 64, 64), 0.6))
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([1.0, 1.6, 0.3]))


def test_bands_other_than_three() -> None:
    model = create_model(tasks(), backbone="test_resnet", in_channels=5)
    assert model(torch.rand(2, 5, 40, 40))["scene"].shape == (2, 3)


def test_class_weights_move_with_the_network() -> None:
    model = network().to(torch.float64)
    assert all(b.dtype == torch.float64 for b in model.tasks["semantic"].criteria.buffers())
    assert model.double().float().tasks["semantic"].criteria["cross_entropy"].weight.dtype == torch.float32


@pytest.mark.parametrize("decoder", [{"shared": True}, {"shared": False}])
def test_what_is_saved_comes_back(decoder: dict, tmp_path: Path) -> None:
    model = network(decoder={"name": "fpn", "width": 8, **decoder}, regularizers={"feature_norm": 0.5}).eval()
    model.save_pretrained(tmp_path / "net")
    again = sw.MultiTaskModel.from_pretrained(tmp_path / "net")
    images = torch.rand(2, 3, 50, 70)
    assert not again.training
    assert list(again.tasks) == list(model.tasks)
    for name, output in model(images).items():
        assert torch.equal(again(images)[name], output)
    assert [task.spec() for task in again.tasks.values()] == [task.spec() for task in model.tasks.values()]
    assert again.regularizers == {"feature_norm": 0.5}
    described = json.loads((tmp_path / "net" / "config.json").read_text())
    assert described["task_order"] == ["semantic", "depth", "scene"]
    one_file = sw.MultiTaskModel.from_pretrained(tmp_path / "net" / "model.safetensors")
    assert torch.equal(one_file(images)["depth"], model(images)["depth"])


def test_a_network_with_an_encoder_of_ones_own(tmp_path: Path) -> None:
    model = create_model(tasks(), CustomBackbone(Small(), [8, 12], [4, 8])).eval()
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="pass one of the same make as `encoder`"):
        MultiTaskModel.from_pretrained(tmp_path)
    again = MultiTaskModel.from_pretrained(tmp_path, CustomBackbone(Small(), [8, 12], [4, 8]))
    images = torch.rand(1, 3, 33, 47)
    assert torch.equal(again(images)["semantic"], model(images)["semantic"])
    network().save_pretrained(tmp_path / "timm")
    with pytest.raises(CheckpointError, match="leave `encoder` out"):
        MultiTaskModel.from_pretrained(tmp_path / "timm", CustomBackbone(Small(), [8, 12], [4, 8]))


@pytest.mark.parametrize(("channels", "strides"), [([8, 13], [4, 8]), ([8, 12], [4, 16]), ([8], [4])])
def test_an_encoder_that_is_not_as_declared(channels: list[int], strides: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"gives maps .* declared were"):
        CustomBackbone(Small(), channels, strides)


class Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("evil-ran"),)


def test_foreign_and_damaged_files_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no network here"):
        MultiTaskModel.from_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        MultiTaskModel.from_pretrained(tmp_path)
    assert not (tmp_path / "evil-ran").exists()
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not written by segweave"):
        MultiTaskModel.from_pretrained(tmp_path)
    network().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        MultiTaskModel.from_pretrained(tmp_path)


def test_the_hub_is_asked_for_what_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network().save_pretrained(tmp_path)
    asked = []

    def download(repo: str, name: str, **options: Any) -> str:
        asked.append((repo, name, options["revision"]))
        return str(tmp_path / name)

    monkeypatch.setattr("segweave.model.hf_hub_download", download)
    assert MultiTaskModel.from_pretrained("someone/streets", revision="v1").tasks.keys() == {
        "semantic",
        "depth",
        "scene",
    }
    assert asked == [("someone/streets", "model.safetensors", "v1")]

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr("segweave.model.hf_hub_download", offline)
    with pytest.raises(CheckpointError, match=r"someone/streets: no such folder, and not to be had .* no network"):
        MultiTaskModel.from_pretrained("someone/streets")
