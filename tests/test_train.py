"""The training step: what it divides by, what it changes, what it logs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segweave.backbones import CustomBackbone, Encoder
from segweave.balancing import Equal, Uncertainty
from segweave.batch import Batch, Labelled
from segweave.data.loader import Effective
from segweave.errors import ConfigError, SegweaveError
from segweave.model import MultiTaskModel, create_model
from segweave.tasks import Classification, Depth, Semantic
from segweave.train import Step, fit

HEIGHT, WIDTH = 32, 32


def network(**options: Any) -> MultiTaskModel:
    """No batch normalisation and no dropout, so that an image's output does not depend on its neighbours."""
    torch.manual_seed(0)
    tasks = [
        Semantic("semantic", classes=3, at="stride8", loss={"cross_entropy": 1, "dice": 0.5}, **options),
        Depth("depth", at="stride8", weight=0.1, **options),
        Classification("scene", classes=4, weight=2.0, **options),
    ]
    return create_model(
        tasks, backbone="convnext_atto", backbone_options={"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
    )


def batch(count: int = 4, seed: int = 0, labelled: Mapping[str, list[int]] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, HEIGHT, WIDTH, generator=generator)
    labels = torch.randint(0, 3, (count, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)
    for row in range(count):
        labels[row, : 5 * row] = 255
    depth = torch.rand(count, HEIGHT, WIDTH, generator=generator) * 10 + 1
    whole = {"semantic": labels, "depth": depth, "scene": torch.arange(count) % 4}
    rows = {name: list(range(count)) for name in whole} if labelled is None else labelled
    targets = {name: Labelled(torch.tensor(r), whole[name][r]) for name, r in rows.items() if r}
    return Batch([f"{seed}-{i}" for i in range(count)], images, targets)


def split(whole: Batch, size: int) -> list[Batch]:
    parts = []
    for start in range(0, len(whole), size):
        stop = start + size
        targets = {}
        for name, labelled in whole.targets.items():
            inside = (labelled.rows >= start) & (labelled.rows < stop)
            if inside.any():
                targets[name] = Labelled(labelled.rows[inside] - start, labelled.value[inside])
        parts.append(Batch(whole.ids[start:stop], whole.images[start:stop], targets))
    return parts


def one_step(model: MultiTaskModel, micro: list[Batch], **options: Any) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return next(iter(fit(model, [Effective(0, 0, micro)], optimizer=optimizer, **options)))


PARTLY = {"semantic": [0, 3], "depth": [1], "scene": [0, 1, 2]}


@pytest.mark.parametrize("average", ["pixel", "image"])
@pytest.mark.parametrize("labelled", [None, PARTLY, {"semantic": [2]}], ids=["all", "some", "one task"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_change_nothing(average: str, labelled: Mapping[str, list[int]] | None, size: int) -> None:
    whole = batch(labelled=labelled)
    one, parts = network(average=average), network(average=average)
    expected = one_step(one, [whole])
    found = one_step(parts, split(whole, size))
    assert found.images == expected.images == 4
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.terms == pytest.approx(expected.terms, rel=1e-5)
    assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    for a, b in zip(one.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_sum_over_the_batch_divided_by_its_count() -> None:
    model, whole = network(), batch(labelled=PARTLY)
    outputs = {name: output.detach() for name, output in model(whole.images).items()}
    target = whole.targets["semantic"]
    expected = nn.functional.cross_entropy(outputs["semantic"][target.rows], target.value.long(), ignore_index=255)
    scene = nn.functional.cross_entropy(outputs["scene"][:3], torch.arange(3))
    step = one_step(model, [whole])
    assert step.terms["semantic/cross_entropy"] == pytest.approx(float(expected), rel=1e-5)
    assert step.losses["scene"] == pytest.approx(2.0 * float(scene), rel=1e-5)
    assert step.losses["semantic"] == pytest.approx(
        step.terms["semantic/cross_entropy"] + step.terms["semantic/dice"], rel=1e-6
    )
    assert step.total == pytest.approx(sum(step.losses.values()), rel=1e-6)


def test_the_step_is_that_of_a_plain_loop() -> None:
    ours, plain, whole = network(), network(), batch()
    one_step(ours, [whole])
    plain.train()
    outputs = plain(whole.images)
    total = 0.0
    for name, task in plain.tasks.items():
        for term in task.loss(outputs[name], whole.targets[name].value).values():
            total = total + task.weight * term.sum.sum() / term.count.sum()
    assert isinstance(total, Tensor)
    total.backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_task_without_labels_neither_counts_nor_changes() -> None:
    model = network()
    before = {name: [p.clone() for p in parameters] for name, parameters in model.private().items()}
    step = one_step(model, [batch(labelled={"semantic": [0, 1], "depth": [2]})])
    assert step.losses.keys() == step.weights.keys() == {"semantic", "depth"}
    after = model.private()
    assert all(torch.equal(a, b) for a, b in zip(before["scene"], after["scene"], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before["semantic"], after["semantic"], strict=True))


def test_labels_that_are_all_ignored_are_no_labels() -> None:
    model = network()
    empty = batch()
    empty.targets["semantic"].value.fill_(255)
    step = one_step(model, [empty])
    assert step.losses["semantic"] == 0
    assert step.weights.keys() == {"depth", "scene"}
    assert math.isfinite(step.total)
    nothing = one_step(model, [batch(labelled={})])
    assert (nothing.losses, nothing.total, nothing.grad_norm) == ({}, 0.0, 0.0)


def test_a_head_runs_on_its_labelled_rows_only() -> None:
    model = network()
    seen: dict[str, list[int]] = {}
    for name, head in model.heads.items():
        head.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(len(args[0][0])))
    one_step(model, [batch(labelled=PARTLY)])
    assert seen == {"semantic": [2], "depth": [1], "scene": [3]}


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_a_normalised_head_is_spared_a_single_image(norm: type[nn.Module]) -> None:
    model = network()

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm(8)
            self.out = nn.Linear(8, 4)
            self.rows: list[int] = []

        def forward(self, maps: list[Tensor], height: int, width: int) -> Tensor:  # noqa: ARG002
            self.rows.append(len(maps[0]))
            pooled = maps[0].mean((2, 3), keepdim=True)
            # a SyncBatchNorm has no CPU kernel
            return self.out((self.norm(pooled) if norm is nn.BatchNorm2d else pooled).flatten(1))

    head = Head()
    model.heads["scene"] = head
    step = one_step(model, [batch(labelled={"scene": [2], "depth": [0, 1]})])
    one_step(model, [batch(labelled={"scene": [1, 2], "depth": [0, 1]})])
    assert head.rows == [4, 2 if norm is nn.BatchNorm2d else 4]
    assert math.isfinite(step.losses["scene"])


def test_a_head_whose_output_another_task_reads_sees_every_image() -> None:
    model = network()
    type(model.interaction).reads_outputs = True
    try:
        rows = {name: torch.tensor([1]) for name in model.tasks}
        seen = []
        model.heads["depth"].register_forward_pre_hook(lambda _, args: seen.append(len(args[0][0])))
        features, _ = model.features(batch().images)
        part = model.outputs(features, HEIGHT, WIDTH, rows)
        assert seen == [4]
        assert part["depth"].shape[0] == 1
        torch.testing.assert_close(part["depth"], model.outputs(features, HEIGHT, WIDTH)["depth"][1:2])
    finally:
        type(model.interaction).reads_outputs = False


def test_clipping_bounds_the_gradient_and_logs_what_it_was() -> None:
    free, clipped, whole = network(), network(), batch()
    start = [p.clone() for p in free.parameters()]
    norm = one_step(free, [whole]).grad_norm
    step = one_step(clipped, [whole], clip=norm / 4)
    assert step.grad_norm == pytest.approx(norm, rel=1e-5)
    moved = [
        torch.cat([(b - a).flatten() for a, b in zip(start, m.parameters(), strict=True)]) for m in (free, clipped)
    ]
    torch.testing.assert_close(moved[1], moved[0] / 4, rtol=1e-3, atol=1e-7)


def test_the_average_of_the_weights_follows_its_formula() -> None:
    model = network()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.75))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    key = next(iter(dict(model.named_parameters())))
    expected = None
    for _ in itertools.islice(fit(model, [batch(seed=s) for s in range(3)], optimizer=optimizer, ema=average), 3):
        now = model.get_parameter(key).detach().clone()
        expected = now if expected is None else 0.75 * expected + 0.25 * now
    assert expected is not None
    torch.testing.assert_close(average.module.get_parameter(key), expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_runs_in_half_and_ends_near_full(precision: str) -> None:
    full, half, whole = network(), network(), batch()
    types = set()
    half.heads["semantic"].classifier.register_forward_hook(lambda _, __, out: types.add(out.dtype))
    expected = one_step(full, [whole])
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16", init_scale=1024.0)
    found = one_step(half, [whole], precision=precision, scaler=scaler)
    assert types == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert found.losses == pytest.approx(expected.losses, rel=0.02)
    assert found.grad_norm == pytest.approx(expected.grad_norm, rel=0.05)
    assert not found.not_finite
    for a, b in zip(full.parameters(), half.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=5e-3)


def test_an_overflow_in_fp16_skips_the_step_and_lowers_the_scale() -> None:
    model = network()
    start = [p.clone() for p in model.parameters()]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    step = one_step(model, [batch()], precision="fp16", scaler=scaler)
    assert "grad_norm" in step.not_finite or "gradient" in step.not_finite
    assert scaler.get_scale() == 2.0**39
    assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))


class Rolled(Equal):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def rollback(self) -> None:
        self.count += 1


def test_a_step_that_is_not_finite_changes_nothing_and_is_named() -> None:
    model, balancer = network(), Rolled()
    optimizer = torch.optim.AdamW(model.parameters())
    bad = batch(seed=1)
    bad.targets["depth"].value[2, 3, 3] = math.inf
    start = [p.clone() for p in model.parameters()]
    heads = [p.clone() for p in model.heads.parameters()]
    stream = fit(model, [bad, batch(seed=2)], optimizer=optimizer, balancer=balancer)
    step = next(stream)
    assert "depth" in step.not_finite
    assert "scene" not in step.not_finite
    assert list(step.ids) == ["1-0", "1-1", "1-2", "1-3"]
    record = step.record()
    assert record["skipped"] is True
    assert record["loss/depth"] is None
    assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
    assert balancer.count == 1
    assert not next(stream).not_finite
    assert not any(torch.equal(a, b) for a, b in zip(heads, model.heads.parameters(), strict=True))


def test_ten_such_steps_in_a_row_end_training() -> None:
    model = network()
    bad = batch(seed=1)
    bad.targets["depth"].value.fill_(math.inf)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stream = fit(model, itertools.repeat(bad), optimizer=optimizer)
    assert all(next(stream).not_finite for _ in range(9))
    with pytest.raises(SegweaveError, match=r"10 steps in a row .*depth.*images 1-0, 1-1"):
        next(stream)


def test_a_balancers_own_parameters_learn_and_its_weights_are_logged() -> None:
    model = network()
    balancer = Uncertainty(list(model.tasks))
    optimizer = torch.optim.SGD([*model.parameters(), *balancer.parameters()], lr=0.1)
    steps = list(fit(model, [batch(), batch()], optimizer=optimizer, balancer=balancer))
    assert set(steps[0].weights.values()) == {0.5}
    assert all(weight != 0.5 for weight in steps[1].weights.values())
    step = steps[0]
    assert step.total == pytest.approx(sum(step.weights[n] * step.losses[n] for n in step.losses), rel=1e-6)


def test_regularisers_enter_with_their_beta_whatever_the_micro_batches() -> None:
    totals = []
    for micro in ([batch()], split(batch(), 2)):
        torch.manual_seed(0)
        tasks = [Classification("scene", classes=4, regularizers={"weight_decay": 0.25, "feature_norm": 0.5})]
        model = create_model(tasks, backbone="convnext_atto", regularizers={"weight_decay": 0.125})
        weight = model.heads["scene"].classifier.weight
        own = 0.25 * float(weight.detach().square().sum()) / 2
        shared = 0.125 * sum(float(p.square().sum()) for p in model.encoder.parameters() if p.ndim >= 2) / 2
        part = [Batch(b.ids, b.images, {"scene": b.targets["scene"]}) for b in micro]
        step = one_step(model, part)
        assert step.regularizers["scene/weight_decay"] == pytest.approx(own, rel=1e-5)
        assert step.regularizers["shared/weight_decay"] == pytest.approx(shared, rel=1e-5)
        assert step.total == pytest.approx(sum(step.losses.values()) + sum(step.regularizers.values()), rel=1e-6)
        totals.append((step.total, step.grad_norm))
    assert totals[0] == pytest.approx(totals[1], rel=1e-4)


def test_every_encoder_is_trained_through_its_first_layer() -> None:
    model = network()
    assert isinstance(model.encoder, Encoder)
    first = next(model.encoder.parameters())
    before = first.clone()
    one_step(model, [batch()])
    assert not torch.equal(first, before)


def test_a_skipped_step_leaves_no_trace_in_running_statistics() -> None:
    torch.manual_seed(0)
    model = create_model([Classification("scene", classes=4)], backbone="test_resnet")
    good = batch(labelled={"scene": [0, 1, 2, 3]})
    bad = Batch(good.ids, good.images.clone(), good.targets)
    bad.images[0, 0, 0, 0] = math.inf
    before = [buffer.clone() for buffer in model.buffers()]
    assert one_step(model, [bad]).not_finite
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert not one_step(model, [good]).not_finite
    assert model.eval()(good.images)["scene"].isfinite().all()


def test_a_batch_without_labels_in_fp16() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    step = one_step(network(), [batch(labelled={})], precision="fp16", scaler=scaler)
    assert (step.losses, step.total) == ({}, 0.0)


def test_the_optimizer_must_hold_the_balancers_parameters() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match="lacks 3 parameters of the balancer"):
        next(fit(model, [batch()], optimizer=optimizer, balancer=Uncertainty(list(model.tasks))))


class _Squeeze(nn.Module):
    """Squeeze and excitation as ResNeSt and SKNet have it: batch normalisation over maps of 1 x 1."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.norm(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class _Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=8, padding=1)
        self.wide = nn.BatchNorm2d(8)
        self.squeeze = _Squeeze()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.squeeze(self.wide(self.stem(x)).relu())]


def squeezed() -> MultiTaskModel:
    torch.manual_seed(0)
    backbone = CustomBackbone(_Squeezed(), channels=[8], strides=[8])
    return create_model([Semantic("semantic", classes=3, at="stride8")], backbone)


def only_semantic(whole: Batch) -> Batch:
    return Batch(whole.ids, whole.images, {"semantic": whole.targets["semantic"]})


def test_a_single_image_is_trained_with_running_statistics_where_it_has_one_value_per_channel() -> None:
    model = squeezed()
    norm, wide = model.get_submodule("encoder.body.squeeze.norm"), model.get_submodule("encoder.body.wide")
    before, hooks = dict(norm.named_buffers()), len(norm._forward_hooks)
    before = {name: buffer.clone() for name, buffer in before.items()}
    wide_before = wide.get_buffer("running_mean").clone()
    learnt = [model.get_parameter(f"encoder.body.{name}.weight") for name in ("stem", "squeeze.norm", "squeeze.gate")]
    weights = [p.clone() for p in learnt]
    step = one_step(model, [only_semantic(batch(1))])
    assert math.isfinite(step.total)
    assert not any(torch.equal(a, b) for a, b in zip(weights, learnt, strict=True))
    assert all(torch.equal(before[name], buffer) for name, buffer in norm.named_buffers())
    assert not torch.equal(wide_before, wide.get_buffer("running_mean")), "the others see many values and learn"
    assert len(norm._forward_hooks) == hooks
    one_step(model, [only_semantic(batch(2))])
    assert not torch.equal(before["running_mean"], norm.get_buffer("running_mean"))


def test_a_single_image_and_a_norm_without_statistics_is_an_error_that_names_both() -> None:
    model = squeezed()
    norm: Any = model.get_submodule("encoder.body.squeeze.norm")
    norm.running_mean = norm.running_var = None
    one_step(model, [only_semantic(batch(2))])
    start = [p.clone() for p in model.parameters()]
    with pytest.raises(ConfigError, match=r"train\.batch_size: encoder\.body\.squeeze\.norm .*expected at least 2"):
        one_step(model, [only_semantic(batch(1))])
    assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))


@pytest.mark.parametrize("backbone", ["resnest14d", "rexnet_100", "skresnet18"])
def test_encoders_with_squeezed_norms_are_trained_with_a_single_image(backbone: str) -> None:
    model = create_model([Semantic("semantic", classes=3)], backbone=backbone, decoder={"name": "fpn", "width": 8})
    step = one_step(model, [only_semantic(batch(1))])
    assert not step.not_finite
    assert step.grad_norm > 0


def test_a_step_of_which_no_image_could_be_read_changes_nothing() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(model)
    start = [p.clone() for p in model.parameters()]
    step, after = fit(model, [Effective(0, 0, []), Effective(1, 0, [batch()])], optimizer=optimizer, ema=average)
    assert (step.images, step.losses, step.total, step.not_finite) == (0, {}, 0.0, [])
    assert int(average.n_averaged) == 1
    assert after.images == 4
    first = [p.clone() for p in fresh_step(batch()).parameters()]
    assert all(torch.equal(a, b) for a, b in zip(first, model.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))


def fresh_step(whole: Batch) -> MultiTaskModel:
    """A new network after the same single step."""
    model = network()
    list(fit(model, [Effective(1, 0, [whole])], optimizer=torch.optim.AdamW(model.parameters(), lr=0.1)))
    return model
