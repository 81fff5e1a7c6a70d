"""What a network costs: against sums by hand, published figures, the profiler, and a clock that is made up."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights

from segweave import cost
from segweave.backbones import CustomBackbone
from segweave.cost import cost_table
from segweave.errors import ConfigError
from segweave.model import MultiTaskModel, create_model
from segweave.peak import Peak
from segweave.tasks import Classification, Depth, Semantic
from segweave.tasks.task import Task

NUMBERS = {"parameters", "macs", "milliseconds", "peak_megabytes"}


class Small(nn.Module):
    """An encoder whose costs are quickly worked out: levels of 8 and 12 channels at strides 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 12, 2, 2)

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.first(images).relu()
        return [fine, self.second(fine)]


def tasks() -> list[Task]:
    return [Semantic("semantic", classes=5), Depth("depth"), Classification("scene", classes=["a", "b", "c"])]


def small(shared: bool = True) -> MultiTaskModel:
    decoder = {"name": "fpn", "width": 6, "shared": shared}
    return create_model(tasks(), CustomBackbone(Small(), [8, 12], [4, 8]), decoder=decoder)


def part(table: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in table["parts"] if row["part"] == name)


@pytest.mark.parametrize("shared", [True, False], ids=["one decoder", "a decoder each"])
def test_parameters_and_macs_by_hand(shared: bool) -> None:
    table = cost_table(small(shared), 30, 64, repeats=1)  # padded to 32 x 64
    fine, coarse = 8 * 16, 4 * 8  # positions
    decoders = 1 if shared else 2  # the scene is read off the encoder
    first, second = 3 * 8 * 16, 8 * 12 * 4
    lateral, smooth = [8 * 6, 12 * 6], 6 * 6 * 9
    expected = {
        # 1 x 1 and 3 x 3 of the pyramid, 3 x 3 of the fusing, at both levels; norms have weights and no MACs
        "encoder": (first + 8 + second + 12, first * fine + second * coarse),
        "decoder": (
            decoders * (sum(lateral) + 2 * 6 + 2 * (smooth + 6) + 2 * (smooth + 12)),
            decoders * (lateral[0] * fine + lateral[1] * coarse + 2 * smooth * (fine + coarse)),
        ),
        "head semantic": (6 * 5 + 5, 6 * 5 * fine),
        "head depth": (6 + 1, 6 * fine),
        "head scene": (12 * 3 + 3, 12 * 3),
    }
    assert {row["part"]: (row["parameters"], row["macs"]) for row in table["parts"]} == expected
    assert table["shared"]["parameters"] == sum(parameters for parameters, _ in expected.values())
    assert table["shared"]["macs"] == sum(macs for _, macs in expected.values())


class PerLevel(nn.Module):
    """A head on several maps, as detection has: one 1 x 1 convolution with 2 outputs on each."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.rows = nn.ModuleList(nn.Conv2d(width, 2, 1) for width in channels)

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> Tensor:  # noqa: ARG002
        return torch.cat([row(level).flatten(2) for row, level in zip(self.rows, maps, strict=True)], dim=2)


class Levels(Depth):
    dense = False
    place = "pyramid"

    def head(self, channels: Sequence[int], strides: Sequence[int]) -> nn.Module:  # noqa: ARG002
        return PerLevel(channels)


def test_a_head_that_reads_the_pyramid() -> None:
    decoder = {"name": "fpn", "width": 6}
    both = [Levels("levels"), Semantic("semantic", classes=5)]
    table = cost_table(create_model(both, CustomBackbone(Small(), [8, 12], [4, 8]), decoder=decoder), 32, 64, repeats=1)
    fine, coarse = 8 * 16, 4 * 8
    pyramid = 8 * 6 * fine + 12 * 6 * coarse + 6 * 6 * 9 * (fine + coarse)
    fuse = 6 * 6 * 9 * (fine + coarse)
    assert part(table, "decoder")["macs"] == pyramid + fuse
    assert part(table, "head levels")["macs"] == 6 * 2 * (fine + coarse)
    encoder = part(table, "encoder")["macs"]
    # alone, nothing is fused
    assert table["separate"]["levels"]["macs"] == encoder + pyramid + 6 * 2 * (fine + coarse)
    assert table["separate"]["semantic"]["macs"] == encoder + pyramid + fuse + 6 * 5 * fine


def test_the_published_figures_of_resnet18() -> None:
    model = create_model([Classification("scene", classes=1000)], backbone="resnet18")
    table = cost_table(model, 224, 224, repeats=1)
    published = ResNet18_Weights.DEFAULT.meta
    assert table["shared"]["parameters"] == published["num_params"]
    assert table["shared"]["macs"] / 1e9 == pytest.approx(published["_ops"], abs=5e-4)
    assert part(table, "decoder")["macs"] == part(table, "decoder")["parameters"] == 0
    assert table["shared"] | {"milliseconds": 0} == table["separate"]["scene"] | {"milliseconds": 0}


def test_fused_attention_counts_like_the_plain_one() -> None:
    model = create_model([Depth("depth")], backbone="test_vit", decoder={"name": "fpn", "width": 8})
    fused = cost_table(model, 160, 160, repeats=1)["shared"]["macs"]
    attentions: list[Any] = [m for m in model.modules() if hasattr(m, "fused_attn")]
    assert attentions
    for attention in attentions:
        attention.fused_attn = False
    assert cost_table(model, 160, 160, repeats=1)["shared"]["macs"] == fused

    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()  # torch's own has a fused fast path
    tokens = torch.rand(1, 10, 16)
    assert cost._macs(lambda: layer(tokens)) == 10 * 16 * 16 * 4 + 2 * 10 * 10 * 16 + 2 * 10 * 16 * 32
    assert torch.backends.mha.get_fastpath_enabled()


class Known(nn.Module):
    """Holds 400 bytes of weights and at its peak 400 + 1200 made ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(100))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight  # 400
        y = x + 1  # 800
        x = y.view(10, 10).T.relu_()  # of y: 400
        z = torch.cat([x, x, x])  # 1600
        del x, y  # 1200
        return z.sum()  # 1204


def by_profiler(run: Callable[[], Any]) -> int:
    """The most bytes that the CPU allocator handed out during a run, scratch memory included."""
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        kept = run()
    assert kept is not None
    events: Any = profile.profiler.kineto_results.events()  # pyright: ignore
    sizes = [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()) if event.name() == "[memory]"]
    return max(itertools.accumulate(sizes))


def test_peak_memory_of_a_known_module() -> None:
    module, x = Known(), torch.rand(100)
    assert cost._peak(cost._Work(module, lambda: module(x)), torch.device("cpu")) == 400 + 1600
    assert by_profiler(lambda: module(x)) == 1600


def test_peak_memory_is_what_the_allocator_says() -> None:
    # kernels without scratch memory, so that both must count the same
    module = nn.Sequential(nn.GELU(), nn.MaxPool2d(2), nn.Softmax(1), nn.ReLU(inplace=True), nn.AvgPool2d(3)).eval()
    x = torch.rand(2, 4, 20, 20)
    module(x)
    made = cost._peak(cost._Work(module, lambda: module(x)), torch.device("cpu"))
    # the input of the pooling, its result and the int64 positions of the largest
    assert made == by_profiler(lambda: module(x)) == 4 * 3200 + 3200 + 2 * 3200


def test_peak_memory_of_a_network_is_within_what_the_allocator_says() -> None:
    model, images = small().eval(), torch.rand(1, 3, 64, 96)
    model(images)
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    made = cost._peak(cost._Work(model, lambda: model(images)), torch.device("cpu")) - weights
    outputs = sum(output.nbytes for output in model(images).values())
    assert outputs < made <= by_profiler(lambda: model(images))  # whose convolutions take scratch memory


def test_memory_is_freed_with_the_last_that_holds_it() -> None:
    with torch.no_grad(), Peak(torch.device("cpu")) as live:
        a = torch.zeros(100)
        view = a[:50]
        assert live._live.held == 400
        del a
        assert live._live.held == 400
        del view
        assert live._live.held == 0
    assert live.bytes == 400


def test_peaks_hold_the_weights_and_what_is_made() -> None:
    table = cost_table(small(), 32, 64, repeats=1)
    for name, row in {"shared": table["shared"], **{r["part"]: r for r in table["parts"]}, **table["separate"]}.items():
        assert row["peak_megabytes"] * 1e6 > 4 * row["parameters"], name
    # one 1 x 1 map of 3 classes is all that is made beside the 12 pooled channels
    assert part(table, "head scene")["peak_megabytes"] * 1e6 == 4 * (12 * 3 + 3) + 4 * (12 + 3)
    alone = [row["peak_megabytes"] for row in table["separate"].values()]
    weights = [row["parameters"] * 4e-6 for row in table["separate"].values()]
    # all weights are there together, the activations one after another
    assert sum(weights) + max(alone) - max(weights) < table["separate_sum"]["peak_megabytes"] < sum(alone)


class Clock:
    """A clock that only what is run moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.runs: list[str] = []

    def run(self, name: str, seconds: Callable[[int], float]) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds(self.runs.count(name))
            self.runs.append(name)

        return run


def test_latency_is_the_median_of_turns_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock.now)
    slow_start = clock.run("a", lambda i: 9.0 if i < 3 else [0.001, 0.002, 0.007][i - 3])
    steady = clock.run("b", lambda _: 0.5)
    assert cost._milliseconds([slow_start, steady], 3, torch.device("cpu")) == pytest.approx([2.0, 500.0])
    assert clock.runs == ["a", "b"] * 6


def test_latency_is_that_of_the_parts_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each convolution moves the clock by 1 ms; the wall clock plays no part."""
    clock = Clock()
    tick = clock.run("conv", lambda _: 0.001)
    genuine = nn.Conv2d.forward

    def forward(module: nn.Conv2d, x: Tensor) -> Tensor:
        tick()
        return genuine(module, x)

    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock.now)
    table = cost_table(small(), 32, 64, repeats=2)
    times = {row["part"]: row["milliseconds"] for row in table["parts"]}
    expected = {"encoder": 2, "decoder": 6, "head semantic": 1, "head depth": 1, "head scene": 0}
    assert times == pytest.approx(expected)
    assert table["shared"]["milliseconds"] == pytest.approx(10)
    separate = {task: row["milliseconds"] for task, row in table["separate"].items()}
    assert separate == pytest.approx({"semantic": 9, "depth": 9, "scene": 2})
    assert table["separate_sum"]["milliseconds"] == pytest.approx(20)


def test_the_network_is_left_as_it_was() -> None:
    model = create_model(tasks(), backbone="test_resnet", decoder={"name": "fpn", "width": 8}).train()
    model.encoder.eval()  # frozen norms stay in eval mode while the rest trains
    sum(output.sum() for output in model(torch.rand(2, 3, 64, 64)).values()).backward()  # pyright: ignore
    state = copy.deepcopy(model.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    drawn = torch.random.get_rng_state()
    spec = copy.deepcopy(model.spec)

    cost_table(model, 64, 96, repeats=1)

    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)  # pyright: ignore
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert model.spec == spec
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_table_is_json_and_the_sum_is_that_of_networks_made_one_by_one() -> None:
    options: dict[str, Any] = {"backbone": "test_resnet", "decoder": {"name": "fpn", "width": 8}, "in_channels": 4}
    model = create_model(tasks(), **options)
    model.spec["pretrained"] = "/nowhere/weights.safetensors"  # must not be looked for
    table = json.loads(json.dumps(cost_table(model, 64, 96, repeats=1)))
    assert table["size"] == [64, 96]
    assert (table["batch"], table["threads"]) == (1, torch.get_num_threads())
    assert table["device"]
    assert [row["part"] for row in table["parts"]] == [
        "encoder",
        "decoder",
        "head semantic",
        "head depth",
        "head scene",
    ]
    assert list(table["separate"]) == ["semantic", "depth", "scene"]
    rows = [table["shared"], table["separate_sum"], *table["separate"].values()]
    assert all(row.keys() == NUMBERS for row in rows)
    assert all(row.keys() == NUMBERS | {"part"} for row in table["parts"])
    for task in tasks():
        alone = create_model([task], **options)
        assert table["separate"][task.name]["parameters"] == sum(p.numel() for p in alone.parameters())
    for key in ("parameters", "macs", "milliseconds"):
        assert table["separate_sum"][key] == pytest.approx(sum(row[key] for row in table["separate"].values()))


def test_a_network_of_another_number_type() -> None:
    single, double = (cost_table(small().to(kind), 32, 32, repeats=1) for kind in (torch.float32, torch.float64))
    for one, two in zip(single["parts"], double["parts"], strict=True):
        assert two["macs"] == one["macs"]
        # of a norm's buffers only the counter of batches stays as it is
        assert two["peak_megabytes"] == pytest.approx(2 * one["peak_megabytes"], abs=2e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 0}, "height: found 0"),
        ({"width": -3}, "width: found -3"),
        ({"repeats": 0}, "repeats: found 0"),
    ],
)
def test_sizes_that_make_no_sense(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cost_table(small(), **{"height": 32, "width": 32, **arguments})


def test_a_network_without_a_recipe() -> None:
    made = small()
    bare = MultiTaskModel(list(made.tasks.values()), made.encoder, made.interaction, [0.5] * 3, [0.25] * 3)
    with pytest.raises(ConfigError, match="make it with create_model"):
        cost_table(bare, 32, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    model = small().cuda()
    drawn = torch.cuda.get_rng_state()
    table = cost_table(model, 64, 64, repeats=2)
    assert table["device"] == torch.cuda.get_device_name()
    assert torch.equal(torch.cuda.get_rng_state(), drawn)
    on_cpu = cost_table(model.cpu(), 64, 64, repeats=1)
    for one, two in zip(table["parts"], on_cpu["parts"], strict=True):
        assert (one["parameters"], one["macs"]) == (two["parameters"], two["macs"])
        assert one["peak_megabytes"] >= two["peak_megabytes"]  # the allocator rounds up, libraries take workspaces
