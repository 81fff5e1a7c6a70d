"""What every task kind must do; a kind that is not in CASES fails the suite."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segweave
from segweave import rasters
from segweave.batch import Terms
from segweave.errors import ConfigError, DataError
from segweave.metrics.metric import Metric
from segweave.tasks import TASKS
from segweave.tasks.task import Prediction, Task

HEIGHT, WIDTH = 24, 28


@dataclass(frozen=True)
class Case:
    """A task kind's example: options, a label, one with nothing known, and the prediction that is right."""

    kind: str
    options: dict[str, Any]
    label: Callable[[int], Tensor]
    unknown: Callable[[], Tensor] | None
    right: Callable[[Tensor], Prediction]
    best: float
    written_within: float = 5e-4


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels(classes: int) -> Callable[[int], Tensor]:
    def make(seed: int) -> Tensor:
        drawn = torch.randint(0, classes, (HEIGHT, WIDTH), dtype=torch.uint8, generator=generator(seed))
        drawn[0] = 255
        return drawn

    return make


def metres(seed: int) -> Tensor:
    drawn = torch.rand(HEIGHT, WIDTH, generator=generator(seed)) * 20 + 1
    drawn[:, 0] = 0
    return drawn


def directions(seed: int) -> Tensor:
    """Unit vectors that face the camera, the first column not labelled."""
    drawn = torch.randn(3, HEIGHT, WIDTH, generator=generator(seed))
    drawn[2] = drawn[2].abs()
    drawn[:, :, 0] = 0
    return nn.functional.normalize(drawn, dim=0)


def thin_lines(seed: int) -> Tensor:
    """Two lines one pixel wide, away from the border, where edges fade; the first row not labelled."""
    drawn = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    drawn[6 + seed, 7:20] = drawn[14:18, 9] = 1
    drawn[0] = 255
    return drawn


def rectangles(seed: int) -> Tensor:
    """One to three boxes with their classes."""
    corners = torch.rand(1 + seed % 3, 2, generator=generator(seed)) * 10
    classes = torch.arange(len(corners))[:, None] % 2
    return torch.cat([corners, corners + torch.tensor([12.0, 9.0]), classes], 1)


def nothing() -> Tensor:
    return torch.full((HEIGHT, WIDTH), 255, dtype=torch.uint8)


CASES = {
    "semantic": Case(
        "semantic",
        {"classes": ["a", "b", "c"], "loss": {"cross_entropy": 1, "iou": 0.5, "dice": 0.5}, "class_weights": [1, 2, 3]},
        labels(3),
        nothing,
        lambda target: {"labels": target.long()},
        1.0,
    ),
    "semantic, binary": Case(
        "semantic",
        {"classes": ["polyp"], "loss": ["cross_entropy", "dice"]},
        labels(2),
        nothing,
        lambda target: {"labels": target.long()},
        1.0,
    ),
    "classification": Case(
        "classification",
        {"classes": ["a", "b", "c", "d"]},
        lambda seed: torch.tensor(seed % 4),
        None,
        lambda target: {"scores": nn.functional.one_hot(target, 4).float()},
        1.0,
    ),
    "classification, multi-label": Case(
        "classification",
        {"classes": 4, "multi_label": True},
        lambda seed: (torch.arange(4) % (seed + 2) == 0).float(),
        None,
        lambda target: {"scores": target},
        1.0,
    ),
    "classification, presence": Case(
        "classification",
        {"classes": 3, "derive": "presence"},
        labels(2),
        None,
        lambda target: {"scores": target},
        1.0,
    ),
    "detection": Case(
        "detection",
        {"classes": ["car", "sign"], "finest": 4, "extra": 0, "width": 8, "draw_above": 0.0},
        rectangles,
        None,
        lambda target: {"boxes": target[..., :4], "scores": torch.ones(target.shape[:2]), "labels": target[..., 4]},
        1.0,
    ),
    "depth": Case(
        "depth",
        {"loss": {"l1": 0.1, "silog": {"weight": 1, "variance_focus": 0.85}}, "max_depth": 40},
        metres,
        lambda: torch.zeros(HEIGHT, WIDTH),
        lambda target: {"depth": target},
        0.0,
    ),
    "normals": Case(
        "normals",
        {"loss": {"cosine": 1, "l1": 0.5}, "axes": ["down", "away", "right"]},
        directions,
        lambda: torch.zeros(3, HEIGHT, WIDTH),
        lambda target: {"normals": target},
        0.0,
    ),
    "edges": Case(
        "edges",
        {"loss": {"balanced_bce": {"weight": 50, "pos_weight": 0.95}, "dice": 1}, "thresholds": 9},
        thin_lines,
        nothing,
        lambda target: {"edges": (target == 1).float()},
        1.0,
        written_within=0.5 / 255 + 1e-6,
    ),
}


def build(case: Case, **more: Any) -> Task:
    return TASKS.load(case.kind)("task", **{**case.options, **more})


def targets(task: Task, case: Case, count: int = 3) -> Tensor:
    return task.stack([task.encode(task.wrap(case.label(seed), (HEIGHT, WIDTH))) for seed in range(count)])


def raw(task: Task, count: int = 3) -> Tensor:
    torch.manual_seed(0)
    return task.head([8], [4])([torch.randn(count, 8, 6, 7)], HEIGHT, WIDTH)


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_no_kind_escapes() -> None:
    assert {case.kind for case in CASES.values()} == set(TASKS)
    for name in TASKS:
        assert TASKS.load(name).kind == name


def test_spec_builds_the_same_task(case: Case) -> None:
    task = build(case, weight=0.5, average="image", regularizers={"weight_decay": 0.1})
    spec = task.spec()
    again = TASKS.load(spec["kind"])(**{key: value for key, value in spec.items() if key != "kind"})
    assert again.spec() == spec
    assert (again.weight, again.average, again.regularizers) == (0.5, "image", {"weight_decay": 0.1})
    output, target = raw(task), targets(task, case)
    for name, terms in task.loss(output, target).items():
        assert torch.equal(again.loss(output, target)[name].sum, terms.sum)


def test_every_named_loss_is_per_image_and_trains_the_head(case: Case) -> None:
    task = build(case)
    torch.manual_seed(0)
    head = task.head([8], [4])
    output, target = head([torch.randn(3, 8, 6, 7)], HEIGHT, WIDTH), targets(task, case)
    terms = task.loss(output, target)
    assert list(terms) == list(task.loss_options)
    for name, term in terms.items():
        assert isinstance(term, Terms)
        assert term.sum.shape == term.count.shape == (3,)
        assert torch.equal(term.count, task.counts(target)[name])
        assert (term.count > 0).all()
        alone = task.loss(output[1:2], target[1:2])[name]
        torch.testing.assert_close(alone.sum[0], term.sum[1])
    sum(term.sum.sum() for term in terms.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_a_losss_weight_multiplies_it(case: Case) -> None:
    task = build(case)
    heavier = build(case, loss={n: {**o, "weight": 3.0 * o["weight"]} for n, o in task.loss_options.items()})
    output, target = raw(task), targets(task, case)
    for name, term in task.loss(output, target).items():
        torch.testing.assert_close(heavier.loss(output, target)[name].sum, 3 * term.sum)
        torch.testing.assert_close(heavier.loss(output, target)[name].count, term.count)


def test_average_image_is_the_mean_of_the_images_means(case: Case) -> None:
    task, by_image = build(case), build(case, average="image")
    output, target = raw(task), targets(task, case)
    for name, term in by_image.loss(output, target).items():
        each = [task.loss(output[i : i + 1], target[i : i + 1])[name] for i in range(3)]
        expected = torch.stack([one.sum.sum() / one.count.sum() for one in each])
        torch.testing.assert_close(term.sum, expected)
        assert term.count.tolist() == [1, 1, 1]
        assert torch.equal(by_image.counts(target)[name], term.count)


def test_an_image_with_nothing_labelled_adds_exactly_nothing(case: Case) -> None:
    if case.unknown is None:
        pytest.skip("a whole-image label is there or is not")
    for average in ("pixel", "image"):
        task = build(case, average=average)
        output = raw(task).detach().requires_grad_()
        target = torch.stack([task.encode(task.wrap(case.unknown(), (HEIGHT, WIDTH)))] * 3)
        total = sum(term.sum.sum() for term in task.loss(output, target).values())
        assert total == 0
        assert all((count == 0).all() for count in task.counts(target).values())
        total.backward()
        assert output.grad is not None
        assert (output.grad == 0).all()


def test_decode_and_metric(case: Case) -> None:
    task = build(case)
    target = targets(task, case, 4)
    metric = task.metric()
    assert isinstance(metric, Metric)
    metric.update(task.decode(raw(task, 4)), target)
    values = metric.compute()
    assert metric.headline in values
    perfect = task.metric()
    for row in range(4):
        perfect.update(case.right(target[row : row + 1]), target[row : row + 1])
    assert perfect.compute()[metric.headline] == pytest.approx(case.best)
    better = values[metric.headline] < case.best if metric.higher_is_better else values[metric.headline] > case.best
    assert better


def test_decode_is_tensor_code_that_can_be_exported(case: Case) -> None:
    task = build(case)

    class Decode(nn.Module):
        def forward(self, output: Tensor) -> dict[str, Tensor]:
            return dict(task.decode(output))

    output = raw(task).detach()
    exported = torch.export.export(Decode(), (output,)).module()(2 * output)
    for key, eager in task.decode(2 * output).items():
        torch.testing.assert_close(exported[key], eager)


def test_what_is_written_is_read_back(case: Case, tmp_path: Path) -> None:
    task = build(case)
    predictions = task.decode(raw(task, 2))
    for row, id in enumerate(("street/a.b", "ü 2")):
        path = task.write(tmp_path, id, {key: value[row] for key, value in predictions.items()})
        assert path.is_file()
    found = task.predictions(tmp_path)
    assert found.keys() == {"street/a.b", "ü 2"}
    for row, id in enumerate(("street/a.b", "ü 2")):
        for key, value in found[id]().items():
            assert value.shape[0] == 1
            written = predictions[key][row].float()
            if case.kind == "detection":
                written = written[predictions["labels"][row] >= 0]
                assert len(written) > 3
            torch.testing.assert_close(value[0].float(), written, atol=case.written_within, rtol=0)


def test_pictures(case: Case) -> None:
    task = build(case)
    image = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator(9))
    prediction = {key: value[0] for key, value in task.decode(raw(task, 1).detach()).items()}
    drawn = task.draw(image, prediction)
    assert drawn.shape == (3, HEIGHT, WIDTH)
    assert drawn.dtype == torch.uint8
    legend = task.legend(prediction)
    assert legend.entries or legend.bar or legend.text
    assert task.dense is False or task.derive if case.kind == "classification" else not torch.equal(drawn, image)


def test_the_raw_output_of_another_size(case: Case) -> None:
    task = build(case)
    output = raw(task)
    other = task.resize(output, (HEIGHT, WIDTH), (31, 17))
    if case.kind == "detection":
        inside = output[..., :4].clamp(min=0).minimum(torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]))
        torch.testing.assert_close(other[..., :4], inside * torch.tensor([17 / WIDTH, 31 / HEIGHT] * 2))
    else:
        assert other.shape[-2:] == (31, 17) if output.ndim == 4 else other is output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0}, r"tasks\.task\.weight: found 0"),
        ({"weight": -1.0}, "expected a number above 0"),
        ({"loss": "nonsense"}, r"tasks\.task\.loss\.nonsense: unknown loss"),
        ({"loss": {"cross_entropy": 0, "l1": 0, "bce": 0}}, r"tasks\.task\.loss\."),
    ],
)
def test_mistakes_name_the_key(case: Case, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(case, **options)


def test_no_other_file_knows_a_kind() -> None:
    """Comparisons with a kind's name stand only in tasks/; the layers of a data format have names of their own."""
    root = Path(segweave.__file__).parent
    for path in root.rglob("*.py"):
        if path.parent.name == "tasks":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and getattr(node.left, "id", "") != "layer":
                compared = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                assert not compared & set(TASKS), f"{path}:{node.lineno}"


def test_reading_needs_a_file_of_the_kind(case: Case, tmp_path: Path) -> None:
    task = build(case)
    if case.kind == "detection":
        with pytest.raises(DataError, match=r"a\.txt: .*COCO JSON"):
            task.read(tmp_path / "a.txt")
        return
    if not task.dense:
        (tmp_path / "a.txt").write_text("1\n")
        assert task.encode(task.read(tmp_path / "a.txt")).shape == task.encode(case.label(0)).shape
        return
    label = case.label(5)
    if label.dtype == torch.uint8:
        rasters.write_index(label, tmp_path / "a.png", [])
        found = task.read(tmp_path / "a.png")
        assert torch.equal(torch.as_tensor(found), label)
    elif case.kind == "normals":
        path = task.write(tmp_path, "a", {"normals": label})
        torch.testing.assert_close(torch.as_tensor(task.read(path)), label, atol=1e-6, rtol=0)
    else:
        rasters.write_depth(label, tmp_path / "a.png")
        torch.testing.assert_close(torch.as_tensor(task.read(tmp_path / "a.png")), label, atol=6e-4, rtol=0)


def test_a_table_of_decisions_without_scores(tmp_path: Path) -> None:
    single = TASKS.load("classification")("scene", classes=["city", "road"])
    (tmp_path / "scene.csv").write_text("filename,label\na/one.PNG,road\ntwo.v2,0\nthree,town\n")
    found = single.predictions(tmp_path)
    assert found["a/one"]()["scores"].tolist() == [[0, 1]]
    assert found["two.v2"]()["scores"].tolist() == [[1, 0]]
    with pytest.raises(DataError, match=r"scene\.csv: image .*'town' is not a class"):
        found["three"]()
    several = TASKS.load("classification")("scene", classes=["car", "tree", "sky"], multi_label=True)
    (tmp_path / "scene.csv").write_text("image,label\none,car;sky\ntwo,-\n")
    found = several.predictions(tmp_path)
    assert found["one"]()["scores"].tolist() == [[1, 0, 1]]
    assert found["two"]()["scores"].tolist() == [[0, 0, 0]]


def test_a_single_class_with_a_threshold(tmp_path: Path) -> None:
    white = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8)
    rasters.write_index(white, tmp_path / "a.png", [])
    plain = TASKS.load("semantic")("mask", classes=["polyp"])
    with pytest.raises(DataError, match=r"every pixel is 0 or 255.*threshold: 128.*ignore: 255"):
        plain.read(tmp_path / "a.png")
    ignoring = TASKS.load("semantic")("mask", classes=["polyp"], ignore=255)
    assert torch.as_tensor(ignoring.read(tmp_path / "a.png")).tolist() == [[0, 255], [255, 0]]
    task = TASKS.load("semantic")("mask", classes=["polyp"], threshold=128)
    assert torch.as_tensor(task.read(tmp_path / "a.png")).tolist() == [[0, 1], [1, 0]]
    assert task.predictions(tmp_path)["a"]()["labels"].tolist() == [[[0, 1], [1, 0]]]
    task.write(tmp_path / "own", "a", {"labels": torch.tensor([[0, 1], [1, 0]])})
    assert task.predictions(tmp_path / "own")["a"]()["labels"].tolist() == [[[0, 1], [1, 0]]]
    with pytest.raises(ConfigError, match=r"tasks\.mask\.threshold: found 2 classes"):
        TASKS.load("semantic")("mask", classes=2, threshold=128)


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a.b", "", ".", "keys", "train", "shared"])
def test_names_that_files_or_torch_cannot_take(name: str) -> None:
    with pytest.raises(ConfigError, match="tasks: found the name"):
        TASKS.load("depth")(name)
