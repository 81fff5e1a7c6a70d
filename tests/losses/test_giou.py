"""GIoU loss against torchvision, and boxes whose cost is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from segweave.losses.giou import GIoU


def boxes(count: int) -> Tensor:
    """[1, count, 4] in an image of 100 x 100 pixels."""
    corners = torch.rand(1, count, 2, dtype=torch.float64) * 80
    return torch.cat([corners, corners + torch.rand(1, count, 2, dtype=torch.float64) * 19 + 1], -1)


def test_is_torchvisions_with_its_gradient() -> None:
    torch.manual_seed(0)
    found, true = boxes(200).requires_grad_(), boxes(200)
    # some apart, some one inside the other
    true[:, :50] = found.detach()[:, :50] + torch.tensor([1.0, 1.0, 3.0, 2.0])
    ours, theirs = GIoU()(found, true)[0], generalized_box_iou_loss(found, true, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, found)[0] for value in (ours, theirs)))


@pytest.mark.parametrize(
    ("found", "true", "cost"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 0),
        ([0, 0, 2, 2], [0, 0, 4, 2], 1 - 1 / 2),
        ([0, 0, 1, 1], [3, 0, 4, 1], 1 + (4 - 2) / 4),  # apart: the hull is 4, half of it empty
        ([0, 0, 2, 2], [1, 1, 1, 5], None),  # a target without area is no box
    ],
)
def test_by_hand(found: list[float], true: list[float], cost: float | None) -> None:
    output, target = torch.tensor([[found]], dtype=torch.float32), torch.tensor([[true]], dtype=torch.float32)
    assert GIoU().count(target).item() == (cost is not None)
    assert GIoU()(output, target).item() == pytest.approx(cost or 0, abs=1e-6)
