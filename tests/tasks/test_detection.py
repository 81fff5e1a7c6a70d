"""The detector against torchvision's FCOS, and boxes against the pixels they enclose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.ops import batched_nms

from segweave import create_model, fit
from segweave.balancing.balancer import GramianBalancer, Objective
from segweave.batch import Batch, Labelled, Sample
from segweave.data.augment import Augment
from segweave.errors import ConfigError
from segweave.interactions.interaction import Features
from segweave.tasks import Depth, Detection, Semantic
from segweave.tasks.boxes import Boxes
from segweave.tasks.fcos import Levels, assign

HEIGHT, WIDTH, STRIDES = 96, 160, [8, 16, 32]
CLASSES = ["car", "person", "sign"]


def task(**options: Any) -> Detection:
    return Detection("objects", **{"classes": CLASSES, "width": 16, "extra": 0} | options)


def boxes(rng: np.random.Generator, count: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """[count, 5] inside the image, of all sizes."""
    size = np.exp(rng.uniform(np.log(3), np.log(min(height, width) - 1), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array([width, height]) - size)
    labels = rng.integers(0, len(CLASSES), (count, 1))
    return torch.from_numpy(np.concatenate([corner, corner + size, labels], 1)).float()


def target_of(detection: Detection, rows: list[Tensor], height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return detection.stack([detection.encode(detection.wrap(r, (height, width))) for r in rows])


def output_of(detection: Detection, batch: int, seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    head = detection.head([16] * 3, STRIDES)
    for parameter in head.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return head, head([torch.randn(batch, 16, HEIGHT // s, WIDTH // s) for s in STRIDES], HEIGHT, WIDTH)


def reference_losses(output: Tensor, target: list[Tensor]) -> tuple[dict[str, Tensor], list[Tensor], int]:
    """torchvision's losses and matches on our outputs, with anchors that are centred on our points."""
    points = output[0, :, 5:8].detach()
    half = points[:, 2:] / 2
    anchors = torch.cat([points[:, :2] - half, points[:, :2] + half], 1)
    centres = output.new_tensor(points[:, :2].tolist())
    sides = [centres - output[..., 0:2], output[..., 2:4] - centres]
    heads = {
        "cls_logits": output[..., 8:],
        "bbox_regression": torch.cat(sides, -1) / points[:, 2:],
        "bbox_ctrness": output[..., 4:5],
    }
    found: dict[str, Any] = {}

    class Recorded(FCOS):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.center_sampling_radius = 1.5
            self.head: Any = lambda: None

    detector = Recorded()
    real = FCOSHead(32, 1, 3, num_convs=1)
    detector.head.compute_loss = lambda t, o, a, m: found.update(matched=m, losses=real.compute_loss(t, o, a, m))
    per_level = [int((points[:, 2] == s).sum()) for s in STRIDES]
    given = [{"boxes": rows[:, :4], "labels": rows[:, 4].long()} for rows in target]
    detector.compute_loss(given, heads, [anchors] * len(target), per_level)
    matched = found["matched"]
    return found["losses"], matched, sum(int((m >= 0).sum()) for m in matched)


@pytest.mark.parametrize("seed", range(5))
def test_assignment_and_losses_are_torchvisions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    detection = task()
    output = output_of(detection, 3, seed)[1]
    rows = [boxes(rng, count) for count in (14, 0, 5)]
    target = target_of(detection, rows)
    expected, matched, positives = reference_losses(output, rows)
    which = assign(target, target[..., 4] >= 0, Levels(output[0, :, 5:8], STRIDES))
    ours = torch.where(which < target.shape[1], which, -1)
    assert positives > 20
    assert torch.equal(ours, torch.stack(matched))

    terms = detection.loss(output, target)
    for name, count in detection.counts(target).items():
        assert torch.equal(count, terms[name].count), name
    assert float(terms["giou"].count.sum()) == positives
    torch.testing.assert_close(terms["focal"].sum.sum() / positives, expected["classification"])
    torch.testing.assert_close(terms["giou"].sum.sum() / positives, expected["bbox_regression"])
    # ours is without the entropy of the target, which no output can change
    gradients = [
        torch.autograd.grad(value, output, retain_graph=True)[0]
        for value in (terms["centerness"].sum.sum() / positives, expected["bbox_ctrness"])
    ]
    torch.testing.assert_close(gradients[0][..., 4], gradients[1][..., 4])
    assert gradients[0].count_nonzero() == gradients[0][..., 4].count_nonzero() > 0


@given(
    st.integers(0, 10_000),
    st.sampled_from([(96, 160), (64, 64), (33, 200)]),
    st.booleans(),
)
def test_a_point_answers_for_a_box_around_it(seed: int, size: tuple[int, int], crowded: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = boxes(rng, int(rng.integers(1, 60 if crowded else 6)), *size)[None]
    levels = Levels.covering(*size, STRIDES)
    which = assign(rows, torch.ones(1, rows.shape[1], dtype=torch.bool), levels)[0]
    points = torch.cat(
        [
            torch.stack(torch.meshgrid(*(torch.arange(-(-n // s)) for n in size), indexing="ij"), -1).flatten(0, 1) * s
            + s / 2
            for s in STRIDES
        ]
    ).flip(-1)
    assert len(points) == len(which)
    for place in torch.nonzero(which < rows.shape[1])[:, 0].tolist():
        x1, y1, x2, y2, _ = rows[0, which[place]].tolist()
        x, y = points[place].tolist()
        assert x1 < x < x2
        assert y1 < y < y2


def test_an_image_without_objects_still_trains() -> None:
    detection = task()
    head, output = output_of(detection, 2)
    target = target_of(detection, [torch.zeros(0, 5)] * 2)
    assert target.shape == (2, 0, 7)
    terms = detection.loss(output, target)
    assert {name: term.count.tolist() for name, term in terms.items()} == {
        "focal": [1, 1],
        "giou": [0, 0],
        "centerness": [0, 0],
    }
    assert terms["giou"].sum.tolist() == terms["centerness"].sum.tolist() == [0, 0]
    terms["focal"].sum.sum().backward()
    assert head.classes.bias.grad.abs().sum() > 0  # pyright: ignore


def test_a_batch_of_empty_images_goes_through_the_loop() -> None:
    detection = Detection("objects", classes=CLASSES, width=16)
    model = create_model([detection], backbone="test_resnet", decoder={"name": "fpn", "width": 16})
    batch = Batch(["a"], torch.rand(1, 3, 64, 64), {"objects": Labelled(torch.tensor([0]), torch.zeros(1, 0, 7))})
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    (step,) = fit(model, [batch], optimizer=optimizer)
    assert step.losses["objects"] > 0
    assert not step.not_finite


def test_nothing_inside_a_crowd_is_background() -> None:
    detection = task()
    output = output_of(detection, 1)[1].detach().requires_grad_()
    crowd = torch.tensor([[20.0, 20, 100, 80, 0, 1]])
    car = torch.tensor([[40.0, 40, 60, 60, 0, 0]])
    for rows, found in ((crowd, 0), (torch.cat([crowd, car]), 1)):
        target = target_of(detection, [rows])
        terms = detection.loss(output, target)
        (gradient,) = torch.autograd.grad(terms["focal"].sum.sum(), output)
        x, y = output[0, :, 5], output[0, :, 6]
        inside = (x > 20) & (x < 100) & (y > 20) & (y < 80)
        trained = gradient[0, :, 8:].abs().sum(-1) > 0
        assert trained[~inside].all()
        positives = int(detection.counts(target)["giou"][0])
        assert (positives > 0) == bool(found)
        assert int(trained[inside].sum()) == positives


def test_thousands_of_boxes() -> None:
    detection = task()
    output = output_of(detection, 2)[1]
    target = target_of(detection, [boxes(np.random.default_rng(0), 4000), torch.zeros(0, 5)])
    terms = detection.loss(output, target)
    assert all(term.sum.isfinite().all() for term in terms.values())
    assert 0 < float(terms["giou"].count[0]) <= output.shape[1]


def test_decoding_is_torchvisions_suppression() -> None:
    detection = task(min_score=0.05, overlap=0.5, max_boxes=40)
    output = output_of(detection, 2)[1].detach()
    output[..., 8:] += 3
    found = detection.decode(output)
    for row in range(2):
        scores = (output[row, :, 8:].sigmoid() * output[row, :, 4:5].sigmoid()).sqrt()
        best, labels = scores.max(1)
        kept = batched_nms(output[row, :, :4], best, labels, 0.5)
        kept = kept[best[kept] > 0.05][:40]
        count = len(kept)
        assert count > 10
        torch.testing.assert_close(found["boxes"][row, :count], output[row, kept, :4])
        torch.testing.assert_close(found["scores"][row, :count], best[kept])
        assert torch.equal(found["labels"][row, :count], labels[kept])
        assert (found["labels"][row, count:] == -1).all()
        assert (found["scores"][row, count:] == 0).all()


def test_fewer_points_than_boxes_to_report() -> None:
    detection = task(max_boxes=500)
    head = detection.head([16], [32])
    found = detection.decode(head([torch.randn(1, 16, 3, 5)], HEIGHT, WIDTH).detach())
    assert found["boxes"].shape == (1, 500, 4)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("size", [None, (40, 90)])
@pytest.mark.parametrize("crop", [None, (32, 48), (120, 200)])
def test_boxes_go_where_the_pixels_go(flip: float, size: tuple[int, int] | None, crop: Any) -> None:
    """A bright rectangle in a dark image, and its box, through scale, crop, padding and flip."""
    detection = task(min_visible=0.0)
    augment = Augment(size, scale=(0.5, 2.0), crop=crop, flip=flip, colour=0.0)
    seen = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        left, top = rng.integers(4, 60), rng.integers(4, 40)
        right, bottom = left + rng.integers(8, 30), top + rng.integers(8, 20)
        image = torch.zeros(3, 64, 96, dtype=torch.uint8)
        image[:, top:bottom, left:right] = 255
        box = torch.tensor([[left, top, right, bottom, 1.0]])
        sample = Sample("a", image, {"objects": detection.wrap(box, (64, 96))})
        moved = augment(sample, {"objects": detection}, torch.Generator().manual_seed(seed))
        annotation = moved.annotations["objects"]
        assert isinstance(annotation, Boxes)
        assert annotation.canvas_size == tuple(moved.image.shape[-2:])
        bright = (moved.image[0] > 0.7).nonzero()
        target = detection.encode(annotation)
        if len(bright) == 0:
            assert len(target) == 0 or (target[0, 2:4] - target[0, :2]).min() < 2
            continue
        seen += 1
        low, high = bright.amin(0), bright.amax(0) + 1
        expected = torch.tensor([low[1], low[0], high[1], high[0]]).float()
        # the edge of a scaled rectangle lies within the pixel that is half bright
        assert (target[0, :4] - expected).abs().max() <= 1.3, (seed, target, expected)
    assert seen > 10


def test_a_box_that_a_crop_hardly_shows_is_dropped() -> None:
    rows = torch.tensor([[0.0, 0, 40, 40, 0], [30, 0, 70, 40, 1], [38, 0, 78, 40, 2]])
    annotation = Boxes.of(rows, (64, 96))
    left = Augment(None, scale=None, crop=(64, 40), flip=0, colour=0)
    chosen = None
    for seed in range(200):
        sample = Sample("a", torch.zeros(3, 64, 96), {"objects": annotation})
        moved = left(sample, {"objects": task()}, torch.Generator().manual_seed(seed)).annotations["objects"]
        if float(moved[0, 0]) == 0 and float(moved[0, 2]) == 40:
            chosen = moved
            break
    assert chosen is not None
    torch.testing.assert_close(chosen[:, 7].as_subclass(Tensor), torch.tensor([1.0, 0.25, 0.05]))
    assert task().encode(chosen)[:, 4].tolist() == [0, 1]
    assert task(min_visible=0.5).encode(chosen)[:, 4].tolist() == [0]
    assert task(min_visible=0.0).encode(chosen)[:, 4].tolist() == [0, 1, 2]
    torch.testing.assert_close(task().encode(chosen)[:, 6], torch.tensor([1600.0, 400.0]))


def test_boxes_outside_inverted_and_without_area() -> None:
    rows = [
        [10, 10, 20, 20, 0],
        [-5, 4, 10, 12, 0],
        [90, 60, 120, 80, 1],
        [200, 10, 220, 20, 1],
        [20, 20, 10, 30, 1],
        [5, 5, 5, 9, 1],
    ]
    annotation = Boxes.of(torch.tensor([*rows, [float("nan"), 0, 5, 5, 0]]), (64, 96))
    assert annotation[:, :4].tolist() == [[10, 10, 20, 20], [0, 4, 10, 12], [90, 60, 96, 64]]
    assert annotation.notes == {
        "boxes inverted, without area or not finite: dropped": 3,
        "boxes outside the image: dropped": 1,
        "boxes that reach over the image's border: clipped": 2,
    }
    assert len(task().encode(annotation)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_visible": 1.5}, r"tasks\.objects\.min_visible: found 1\.5; expected 0 to 1"),
        ({"finest": 0}, r"tasks\.objects\.finest: found 0; expected at least 1"),
        ({"loss": "focal"}, r"tasks\.objects\.loss: found \['focal'\]; expected giou too"),
        ({"ids": {3: "tram"}}, r"tasks\.objects\.ids\.3: 'tram' is no class"),
        ({"category_ids": [1, 2]}, r"tasks\.objects\.category_ids: found \[1, 2\]; expected 3 numbers"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task(**options)


def test_boxes_and_errors_drawn() -> None:
    """Found, false and missed boxes get their colours where they lie."""
    detection = task()
    true = target_of(detection, [torch.tensor([[10.0, 10, 40, 40, 0], [80, 10, 110, 40, 1]])])[0]
    found = {
        "boxes": torch.tensor([[11.0, 10, 40, 41], [50, 60, 70, 80], [0, 0, 5, 5]]),
        "scores": torch.tensor([0.9, 0.8, 0.1]),
        "labels": torch.tensor([0, 1, 0]),
    }
    image = torch.full((3, HEIGHT, WIDTH), 100, dtype=torch.uint8)
    errors = detection.draw_error(image, found, true)
    assert errors[:, 25, 11].tolist() == [46, 160, 67]
    assert errors[:, 70, 50].tolist() == [215, 40, 40]
    assert errors[:, 25, 80].tolist() == [255, 170, 30]
    assert errors[:, 25, 25].tolist() == [100, 100, 100]
    names = [name for name, _ in detection.error_legend(found, true).entries]
    assert names == ["found (1)", "false (1)", "missed (1)"]
    assert [name for name, _ in detection.legend(found).entries] == ["car (1)", "person (1)"]
    drawn = detection.draw(image, found)
    assert drawn[:, 25, 11].tolist() == list(detection.palette[0])
    assert torch.equal(drawn[:, 0:6, 0:6], image[:, 0:6, 0:6])  # too unsure to be drawn
    assert detection.describe(true).counts == {"car": 1, "person": 1, "sign": 0}


class _Fixed(GramianBalancer):
    def weigh(self, gramian: Tensor, tasks: tuple[str, ...], losses: Tensor, last: bool) -> Tensor:  # noqa: ARG002
        return gramian.new_tensor([0.3, 1.7, 0.6])


def test_balancing_at_the_pyramid_reaches_what_fuses_it() -> None:
    """The cut is the pyramid; what the two dense heads share behind it gets the same weights as what lies before."""
    tasks = [Semantic("semantic", classes=4), Depth("depth"), task(width=8)]
    torch.manual_seed(0)
    model = create_model(tasks, backbone="test_resnet", decoder={"name": "fpn", "width": 16, "dropout": 0.0})
    images = torch.rand(2, 3, 64, 96)
    targets = {
        "semantic": torch.randint(0, 4, (2, 64, 96), dtype=torch.uint8),
        "depth": torch.rand(2, 64, 96) * 30 + 1,
        "objects": target_of(tasks[2], [boxes(np.random.default_rng(0), 6, 64, 96)] * 2, 64, 96),  # pyright: ignore
    }

    def losses() -> tuple[list[Tensor], Features]:
        features, _ = model.features(images)
        outputs = model.outputs(features, 64, 96)
        terms = [model.tasks[name].loss(outputs[name], target).values() for name, target in targets.items()]
        return [sum((t.sum.sum() / t.count.sum() for t in of_task), torch.zeros(())) for of_task in terms], features

    each, features = losses()
    assert [f.shape[-1] for f in features.common] == [24, 12, 6, 3]
    shared, private = model.shared(), model.private()
    between = model.interaction.between()
    assert len(between) > 0
    assert {id(p) for p in between} <= {id(p) for p in shared}
    mixed = sum(factor * loss for factor, loss in zip((0.3, 1.7, 0.6), each, strict=True))
    wanted = torch.autograd.grad(mixed, shared, retain_graph=True)  # pyright: ignore
    own = {n: torch.autograd.grad(loss, private[n], retain_graph=True) for n, loss in zip(targets, each, strict=True)}
    objective = Objective(
        tuple(targets), torch.stack(each), torch.zeros(()), features.common, shared, private, between=between
    )
    _Fixed(list(targets), space="features").backward(objective)
    for parameter, gradient in zip(shared, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)
    for name, gradients in own.items():
        for parameter, gradient in zip(private[name], gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("at", [{"at": "stride16"}, {"decoder": {"name": "fpn", "width": 8}}, {}])
def test_places_to_read_from(at: dict[str, Any]) -> None:
    tasks = [Semantic("semantic", classes=4), task(width=8, **at)]
    model = create_model(tasks, backbone="test_resnet", decoder={"name": "fpn", "width": 16})
    batch = Batch(
        ["a", "b"],
        torch.rand(2, 3, 50, 70),
        {
            "semantic": Labelled(torch.tensor([0]), torch.randint(0, 4, (1, 50, 70), dtype=torch.uint8)),
            "objects": Labelled(torch.tensor([1]), target_of(task(), [torch.tensor([[5.0, 5, 40, 30, 1]])], 50, 70)),
        },
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    (step,) = fit(model, [batch], optimizer=torch.optim.SGD(model.parameters(), 0.1))
    assert not step.not_finite
    head = [n for n in before if n.startswith("heads.objects")]
    assert any(not torch.equal(before[n], dict(model.named_parameters())[n]) for n in head)
    found = model.eval().predict(batch.images)["objects"]
    assert (found["boxes"][..., 2] <= 70).all()
    assert (found["boxes"] >= 0).all()


def test_a_dense_task_reads_one_map() -> None:
    with pytest.raises(ConfigError, match=r"tasks\.semantic\.at: semantic reads a single map"):
        create_model([Semantic("semantic", classes=2, at="pyramid")], backbone="test_resnet")
