"""The last layer that all tasks read, on networks where it is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segweave.model import MultiTaskModel, create_model
from segweave.reach import closing_layer, reached
from segweave.tasks import Classification, Depth, Detection, Semantic
from segweave.tasks.task import Task

DENSE = [Semantic("semantic", classes=3), Depth("depth")]
BOXES = [Detection("objects", classes=["a"], width=8)]
SCENE = [Classification("scene", classes=2)]


def names(model: MultiTaskModel) -> set[str]:
    own = {id(p): name for name, p in model.named_parameters()}
    return {own[id(p)] for p in model.closing()}


@pytest.mark.parametrize(
    ("tasks", "prefix", "count"),
    [(DENSE, "interaction.decoder.smooth.", 4), ([*DENSE, *BOXES], "interaction.decoder.top_down.layer_blocks.", 4)],
)
def test_of_a_shared_decoder(tasks: list[Task], prefix: str, count: int) -> None:
    model = create_model(tasks, backbone="test_resnet", decoder={"name": "fpn", "width": 8})
    found = names(model)
    assert len(found) == count
    assert all(name.startswith(prefix) and name.endswith("weight") for name in found)
    shared = {id(p) for p in model.shared()}
    assert all(id(p) in shared for p in model.closing())


def test_of_an_encoder_that_is_all_they_share() -> None:
    model = create_model([*DENSE, *SCENE], backbone="test_resnet", decoder={"name": "fpn", "width": 8})
    assert all(name.startswith("encoder.") for name in names(model))
    assert any(name.startswith("encoder.body.layer4") for name in names(model))


def test_looking_changes_no_mode_and_frozen_parameters_are_not_found() -> None:
    model = create_model(DENSE, backbone="test_resnet", decoder={"name": "fpn", "width": 8}).train()
    model.encoder.eval()
    before = [module.training for module in model.modules()]
    statistics = [buffer.clone() for buffer in model.buffers()]
    model.closing()
    assert [module.training for module in model.modules()] == before
    assert all(torch.equal(a, b) for a, b in zip(statistics, model.buffers(), strict=True))
    for parameter in model.shared():
        parameter.requires_grad_(False)
    assert model.closing() == []


def test_on_a_graph_made_by_hand() -> None:
    stem, left, right = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 3)
    hidden = stem(torch.ones(1, 2))
    outputs = {"a": [left(hidden).relu()], "b": [right(hidden)]}
    assert {id(p) for p in closing_layer(outputs)} == {id(stem.weight)}
    assert set(reached(outputs["a"])) == {id(p) for p in (*stem.parameters(), *left.parameters())}
    (only,) = closing_layer({"a": [left(hidden)], "b": [left(hidden).sum(1)]})
    assert only is left.weight
    assert closing_layer({}) == []
