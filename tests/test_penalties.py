"""The regularisers in a training step: what they read, whatever is labelled and however the batch is split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segweave.balancing import Equal
from segweave.balancing.balancer import GramianBalancer
from segweave.batch import Batch, Labelled
from segweave.data.loader import Effective
from segweave.errors import ConfigError
from segweave.model import MultiTaskModel, create_model
from segweave.tasks import Classification, Depth, Detection, Semantic
from segweave.train import Step, fit

PLAIN: dict[str, Any] = {"backbone": "convnext_atto", "backbone_options": {"depths": [1, 1, 1, 1], "dims": [8] * 4}}
"""No batch normalisation and no dropout, so that an image's output does not depend on its neighbours."""
NORMED: dict[str, Any] = {"backbone": "test_resnet", "backbone_options": {}}


def network(
    semantic: dict[str, float] | None = None,
    depth: dict[str, float] | None = None,
    scene: dict[str, float] | None = None,
    shared: dict[str, float] | None = None,
    **options: Any,
) -> MultiTaskModel:
    torch.manual_seed(0)
    tasks = [
        Semantic("semantic", classes=3, regularizers=semantic or {}, at="stride8"),
        Depth("depth", regularizers=depth or {}, at="stride8"),
        Classification("scene", classes=4, regularizers=scene or {}),
    ]
    return create_model(tasks, regularizers=shared, **{**PLAIN, **options})


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def batch(**rows: list[int]) -> Batch:
    """Four images, of which these rows carry a label."""
    whole = {
        "semantic": torch.randint(0, 3, (4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)),
        "depth": torch.rand(4, 32, 32, generator=torch.Generator().manual_seed(2)) * 10 + 1,
        "scene": torch.arange(4),
    }
    targets = {name: Labelled(torch.tensor(r), whole[name][r]) for name, r in rows.items() if r}
    return Batch([str(i) for i in range(4)], images(), targets)


def halves(whole: Batch) -> list[Batch]:
    parts = []
    for start in (0, 2):
        inside = {n: (t.rows >= start) & (t.rows < start + 2) for n, t in whole.targets.items()}
        targets = {n: Labelled(t.rows[inside[n]] - start, t.value[inside[n]]) for n, t in whole.targets.items()}
        targets = {name: target for name, target in targets.items() if len(target.rows)}
        parts.append(Batch(whole.ids[start : start + 2], whole.images[start : start + 2], targets))
    return parts


def one_step(model: MultiTaskModel, micro: list[Batch], **options: Any) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return next(iter(fit(model, [Effective(0, 0, micro)], optimizer=optimizer, **options)))


FLIP = {"flip_consistency": 0.5}


def differences(model: MultiTaskModel, name: str) -> float:
    """Flip consistency by two plain forwards."""
    with torch.no_grad():
        straight, mirrored = model(images())[name], model(images().flip(-1))[name]
    if name == "semantic":
        values = straight.softmax(1) - mirrored.softmax(1).flip(-1)
    elif name == "depth":
        values = (model.tasks["depth"].activate(straight) / model.tasks["depth"].activate(mirrored).flip(-1)).log()
    else:
        values = straight.softmax(1) - mirrored.softmax(1)
    return 0.5 * float(values.square().mean())


def test_flip_consistency_is_two_forwards() -> None:
    model = network(FLIP, FLIP, FLIP)
    expected = {f"{name}/flip_consistency": differences(model, name) for name in model.tasks}
    step = one_step(model, [batch(semantic=[0, 2], depth=[1])])
    assert step.regularizers == pytest.approx(expected, rel=1e-4)
    assert min(step.regularizers.values()) > 0


def test_what_a_soft_prediction_is() -> None:
    raw = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(Semantic("x", classes=3).soft(raw), raw.softmax(1))
    binary = Semantic("x", classes=1).soft(raw[:, :1])
    torch.testing.assert_close(binary, torch.stack([1 - raw[:, 0].sigmoid(), raw[:, 0].sigmoid()], 1))
    depth = Depth("x", min_depth=0.5, max_depth=20.0)
    torch.testing.assert_close(depth.soft(raw[:, :1]).exp()[:, 0], depth.decode(raw[:, :1])["depth"])
    scores = raw[:, :, 0, 0]
    torch.testing.assert_close(Classification("x", classes=3).soft(scores), scores.softmax(1))
    several = Classification("x", classes=3, multi_label=True)
    torch.testing.assert_close(several.soft(scores), scores.sigmoid())
    forms = [task.form for task in (Semantic("x", classes=3), depth, several, Detection("x", classes=["car"]))]
    assert forms == ["map", "map", "scores", "none"]


def test_the_network_runs_twice_however_many_tasks_ask() -> None:
    for asked, runs in (((None, None, None), 1), ((FLIP, None, None), 2), ((FLIP, FLIP, FLIP), 2)):
        model = network(*asked)
        seen: list[int] = []
        heads: list[str] = []
        model.encoder.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        for name, head in model.heads.items():
            head.register_forward_pre_hook(lambda *_, name=name, heads=heads: heads.append(name))
        one_step(model, [batch(semantic=[0], depth=[0], scene=[0])])
        assert len(seen) == runs
        assert len(heads) == 3 + sum(betas is not None for betas in asked)


@pytest.mark.parametrize("name", ["semantic", "depth", "scene"])
def test_images_without_any_label_are_made_consistent(name: str) -> None:
    model = network(**{name: {"flip_consistency": 1.0}})
    before = differences(model, name)
    first = next(model.encoder.parameters()).clone()
    step = one_step(model, [batch()])
    assert step.losses == {}
    assert step.total == step.regularizers[f"{name}/flip_consistency"] > 0
    assert not torch.equal(first, next(model.encoder.parameters()))
    assert differences(model, name) < before


@pytest.mark.parametrize("rows", [{"semantic": [0, 3], "depth": [1]}, {"scene": [2]}, {}], ids=["some", "one", "none"])
def test_accumulation_changes_nothing(rows: dict[str, list[int]]) -> None:
    options: dict[str, Any] = {
        "semantic": {"smoothness": 0.3, "flip_consistency": 0.2},
        "depth": {"smoothness": 0.1},
        "scene": FLIP,
        "shared": {"orthogonality": 0.7},
    }
    one, parts = network(**options), network(**options)
    expected, found = one_step(one, [batch(**rows)]), one_step(parts, halves(batch(**rows)))
    assert found.regularizers == pytest.approx(expected.regularizers, rel=1e-4)
    assert len(found.regularizers) == 5
    assert found.losses == pytest.approx(expected.losses, rel=1e-4)
    for a, b in zip(one.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_losses_are_those_of_the_labelled_images_alone() -> None:
    rows = {"semantic": [1, 3], "depth": [2], "scene": [0]}
    plain = one_step(network(), [batch(**rows)])
    smooth, steady = {"smoothness": 1e-9}, {"flip_consistency": 1e-9}
    with_all = one_step(network(smooth, smooth, steady), [batch(**rows)])
    assert with_all.losses == pytest.approx(plain.losses, rel=1e-5)


def test_smoothness_reads_every_image_at_its_size() -> None:
    model = network({"smoothness": 2.0})
    with torch.no_grad():
        p = model(images())["semantic"].softmax(1)
    expected = 0.0
    for axis in (2, 3):
        weight = (-images().diff(dim=axis).abs().mean(1, keepdim=True)).exp()
        expected += 2.0 * float((p.diff(dim=axis).abs() * weight).mean())
    step = one_step(model, [batch(semantic=[0])])
    assert step.regularizers["semantic/smoothness"] == pytest.approx(expected, rel=1e-4)


def weight(model: MultiTaskModel, task: str) -> Tensor:
    return model.heads[task].get_parameter("classifier.weight").detach()


def test_orthogonality_is_of_the_heads_at_one_place() -> None:
    model = network(shared={"orthogonality": 1.0})
    semantic, depth = (weight(model, n).flatten(1) for n in ("semantic", "depth"))
    grams = [(w.T @ w).flatten() for w in (semantic, depth)]
    expected = float(nn.functional.cosine_similarity(*grams, dim=0))
    before = weight(model, "depth").clone()
    step = one_step(model, [batch()])
    assert step.regularizers == {"shared/orthogonality": pytest.approx(expected, rel=1e-5)}
    assert not torch.equal(before, weight(model, "depth"))
    own: dict[str, Any] = {"decoder": {"name": "fpn", "width": 8}}
    tasks = [Semantic("semantic", classes=3, **own), Depth("depth", **own)]
    alone = create_model(tasks, regularizers={"orthogonality": 1.0}, **PLAIN)
    with pytest.raises(ConfigError, match="no two heads read the same features"):
        one_step(alone, [batch()])


def test_running_statistics_count_an_image_once() -> None:
    """And the mirrored images pass through their own statistics, as in training."""
    once, twice = network(**NORMED), network(FLIP, FLIP, FLIP, **NORMED)
    expected = differences(network(**NORMED).train(), "scene")
    rows = {"semantic": [0, 1, 2, 3], "depth": [0, 1, 2, 3], "scene": [0, 1, 2, 3]}
    one_step(once, [batch(**rows)])
    step = one_step(twice, [batch(**rows)])
    assert step.regularizers["scene/flip_consistency"] == pytest.approx(expected, rel=1e-3)
    buffers = dict(twice.named_buffers())
    assert any("running_mean" in name for name in buffers)
    for name, buffer in once.named_buffers():
        torch.testing.assert_close(buffers[name], buffer)
    norms = [m for m in twice.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.track_running_stats for norm in norms)


def test_a_single_image_is_made_consistent() -> None:
    whole = batch(semantic=[0], scene=[0])
    one = Batch(whole.ids[:1], whole.images[:1], whole.targets)
    step = one_step(network(FLIP, FLIP, FLIP, **NORMED), [one])
    assert not step.not_finite
    assert min(step.regularizers.values()) > 0


def test_statistics_are_tracked_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(FLIP, **NORMED)
    whole, seen = model.outputs, []

    def outputs(*args: Any) -> dict[str, Tensor]:
        seen.append(1)
        if len(seen) == 2:
            raise RuntimeError("out of memory")
        return whole(*args)

    monkeypatch.setattr(model, "outputs", outputs)
    with pytest.raises(RuntimeError, match="out of memory"):
        one_step(model, [batch(semantic=[0, 1])])
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))


class Plain(GramianBalancer):
    """The sum, by way of the gradients at the common features."""

    def weigh(self, gramian: Tensor, tasks: Any, losses: Tensor, last: bool) -> Tensor:  # noqa: ARG002
        return torch.ones(len(gramian))


@pytest.mark.parametrize("space", ["features", "parameters"])
def test_gradient_methods_leave_regularisers_as_they_are(space: Any) -> None:
    def dense() -> MultiTaskModel:
        torch.manual_seed(0)
        betas = {"smoothness": 0.3, "flip_consistency": 0.2}
        tasks = [Semantic("semantic", classes=3, regularizers=betas), Depth("depth", regularizers=betas)]
        decoder = {"name": "fpn", "width": 8}
        return create_model(tasks, decoder=decoder, regularizers={"orthogonality": 0.5}, **PLAIN)

    by_sum, by_rows = dense(), dense()
    data = [batch(semantic=[0, 1], depth=[1, 2])]
    one_step(by_sum, data, balancer=Equal())
    one_step(by_rows, data, balancer=Plain(space=space))
    for a, b in zip(by_sum.parameters(), by_rows.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(precision: str) -> None:
    options: dict[str, Any] = {"semantic": {"smoothness": 1.0, **FLIP}, "depth": FLIP, "shared": {"orthogonality": 1.0}}
    rows = {"semantic": [0], "depth": [1]}
    # a scaler of 1, as the usual first one overflows
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, enabled=precision == "fp16")
    full, half = one_step(network(**options), [batch(**rows)]), network(**options)
    step = one_step(half, [batch(**rows)], precision=precision, scaler=scaler)
    assert step.regularizers["shared/orthogonality"] == pytest.approx(full.regularizers["shared/orthogonality"])
    assert step.regularizers["semantic/smoothness"] == pytest.approx(full.regularizers["semantic/smoothness"], rel=0.05)
    assert not step.not_finite


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (lambda b: Classification("x", classes=3, regularizers=b), "smoothness"),
        (lambda b: Detection("x", classes=["car"], regularizers=b), "smoothness"),
        (lambda b: Detection("x", classes=["car"], regularizers=b), "flip_consistency"),
        (lambda b: Depth("x", regularizers=b), "orthogonality"),
    ],
)
def test_a_regulariser_that_does_not_fit_is_refused_with_the_network(task: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^tasks\.x\.regularizers\.{name}: "):
        create_model([task({name: 0.1})], backbone="test_resnet")
    with pytest.raises(ConfigError, match=r"^model\.regularizers\.weight_decay: found -1"):
        create_model([Depth("x")], backbone="test_resnet", regularizers={"weight_decay": -1})
