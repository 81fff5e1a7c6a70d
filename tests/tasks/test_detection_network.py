"""The detector beside what a network may be asked for: half precision, export, sizes, and many boxes to report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segweave import create_model, fit
from segweave.batch import Batch, Labelled
from segweave.decoders import DECODERS
from segweave.model import MultiTaskModel
from segweave.tasks import Detection, Semantic
from segweave.tasks.objects import objects_of


def task(**options: Any) -> Detection:
    return Detection("objects", **{"classes": ["car", "person"], "width": 16} | options)


def network(*tasks: Any, decoder: str = "fpn") -> MultiTaskModel:
    return create_model(tasks, backbone="test_resnet", decoder=decoder)


def target(detection: Detection, height: int, width: int, batch: int) -> Labelled:
    rows = torch.tensor([[5.0, 5, 40, 30, 1, 0], [3, 3, 20, 20, 0, 1]])
    one = detection.encode(detection.wrap(rows, (height, width)))
    return Labelled(torch.arange(batch), detection.stack([one] * batch))


class _CudaAutocast(TorchFunctionMode):
    """Refuses what autocast refuses on CUDA (torch.amp, "ops that can't be autocast")."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not nn.functional.binary_cross_entropy
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("decoder", [*DECODERS])
def test_half_precision_beside_every_decoder(decoder: str) -> None:
    """One image of an odd size; coordinates stay float32 and the losses close to those of full precision."""
    losses = {}
    for precision in ("fp32", "bf16"):
        detection = task()
        torch.manual_seed(0)
        model = network(Semantic("semantic", classes=3), detection, decoder=decoder)
        images = torch.rand(1, 3, 51, 77)
        labels = Labelled(torch.tensor([0]), torch.randint(0, 3, (1, 51, 77), dtype=torch.uint8))
        batch = Batch(["a"], images, {"semantic": labels, "objects": target(detection, 51, 77, 1)})
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            assert model(images)["objects"].dtype == torch.float32
        with _CudaAutocast():
            (step,) = fit(model, [batch], optimizer=torch.optim.SGD(model.parameters(), 0.01), precision=precision)
        assert not step.not_finite
        losses[precision] = step.losses["objects"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_an_exported_network_takes_images_of_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    # while it is traced a size is no int, at which the checks of the tests take offence
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    detection = task()
    model = network(detection).eval()

    class Deployed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Any:
            size = images.shape[-2], images.shape[-1]
            return detection.decode(detection.resize(self.model(images)["objects"], size, size))

    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        Deployed(), (torch.rand(1, 3, 128, 192),), dynamic_shapes={"images": {2: free, 3: free}}
    )
    images = torch.rand(1, 3, 256, 96)
    found, expected = exported.module()(images), Deployed()(images)
    for key in ("boxes", "scores", "labels"):
        torch.testing.assert_close(found[key], expected[key])
    assert float(found["boxes"][..., 3].max()) > 192  # beyond what the example would be clipped to


def test_boxes_of_another_size() -> None:
    detection = task()
    output = torch.rand(2, 7, 10)
    output[..., :4] = torch.tensor([-4.0, 10, 50, 200])
    moved = detection.resize(output, (100, 60), (50, 120))
    assert moved[0, 0, :4].tolist() == [0, 5, 100, 50]
    torch.testing.assert_close(moved[..., 5:8], output[..., 5:8] * torch.tensor([2, 0.5, 1]))
    torch.testing.assert_close(moved[..., [4, 8, 9]], output[..., [4, 8, 9]])


def test_thousands_of_boxes_are_found() -> None:
    rng = np.random.default_rng(0)
    corner = torch.from_numpy(np.stack(np.meshgrid(np.arange(50), np.arange(50)), -1).reshape(-1, 2)).float() * 10
    output = torch.zeros(1, 2500, 10)
    output[0, :, :4] = torch.cat([corner, corner + 8], 1)
    output[0, :, 8:] = torch.from_numpy(rng.uniform(-2, 2, (2500, 2)))
    found = task(max_boxes=3000).decode(output)
    assert found["boxes"].shape == (1, 3000, 4)
    assert int((found["labels"] >= 0).sum()) == 2500


@pytest.mark.parametrize("how", ["instances", "components"])
def test_thousands_of_objects_in_a_mask(how: str) -> None:
    """A grid of objects, numbered or all of one value; each is looked at in its own corner, not in the whole image."""
    mask = np.zeros((1024, 2048), np.uint16)
    expected = []
    for number, (y, x) in enumerate((y, x) for y in range(0, 1000, 25) for x in range(0, 2000, 25)):
        mask[y : y + 15, x : x + 12] = 1000 + number if how == "instances" else 1
        mask[y : y + 5, x + 12 : x + 14] = mask[y, x]
        expected.append((x, y, x + 14, y + 15, 0, 0, 15 * 12 + 10))
    table = dict.fromkeys(range(1, 5), 0)
    assert sorted(objects_of(mask, how, table, 4)) == sorted(expected)
