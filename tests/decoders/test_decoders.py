"""Every decoder against one contract: on made-up pyramids, on encoders of a dozen families, exported and trained."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pyramids import PYRAMIDS, built, levels_of
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode

from segweave.backbones import Encoder
from segweave.batch import Batch, Labelled
from segweave.decoders import DECODERS
from segweave.errors import ConfigError
from segweave.model import MultiTaskModel, create_model
from segweave.tasks import Depth, Semantic
from segweave.train import fit

FAMILIES: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_convnext": {},
    "test_efficientnet": {},
    "mobilenetv1_100": {},
    "mobilenetv2_035": {},
    "mobilenetv3_small_050": {},
    "mobilenetv4_conv_small_035": {},
    "hrnet_w18_small": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4]},
    "test_vit": {},  # by the simple pyramid
    "pvt_v2_b0": {},  # as MiT: overlapping patches, attention over a reduced map
    "maxvit_rmlp_pico_rw_256": {"img_size": 64},
    "fastvit_t8": {},
}
LEVELS = {
    "three": {"out_indices": [2, 3, 4]},
    "three fine": {"out_indices": [0, 1, 2]},
    "four": {"out_indices": [1, 2, 3, 4]},
    "five": {"out_indices": [0, 1, 2, 3, 4]},
    "two of the last stride": {"output_stride": 16},
}
WRONG: dict[str, list[Any]] = {
    "width": [0, 2.5, "wide", None],
    "dropout": [-0.1, 1.0, "much"],
    "finest": [0, "4"],
    "rates": [[], [6, 0], [1.5], 6, "6"],
    "low_level_width": [0, 4.5],
    "bins": [[], [1, 0], 6],
    "batch_norm": [1, "no"],
}


@cache
def encoder_of(name: str, **options: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(name, options=options or FAMILIES.get(name))


def network(encoder: Encoder, **decoder: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    return create_model([Semantic("semantic", classes=3)], encoder, decoder={"width": 16, **decoder})


def test_no_decoder_escapes() -> None:
    folder = Path(__file__).parent
    assert [name for name in DECODERS if not (folder / f"test_{name}.py").is_file()] == []
    assert {option for name in DECODERS for option in DECODERS.options(name)} == set(WRONG)


@pytest.mark.parametrize("pyramid", PYRAMIDS)
@pytest.mark.parametrize("name", DECODERS)
class TestOnEveryPyramid:
    @pytest.mark.parametrize("batch", [1, 2])
    def test_gives_one_map_of_the_declared_size(self, name: str, pyramid: str, batch: int) -> None:
        decoder = built(name, pyramid)
        result = decoder.train()(levels_of(pyramid, batch))
        pixels = 2 * max(PYRAMIDS[pyramid][1]), 3 * max(PYRAMIDS[pyramid][1])
        assert result.shape == (batch, decoder.channels, pixels[0] // decoder.stride, pixels[1] // decoder.stride)
        assert result.isfinite().all()

    def test_the_map_is_fused_of_the_declared_pyramid(self, name: str, pyramid: str) -> None:
        decoder = built(name, pyramid).eval()
        levels = levels_of(pyramid, height=4, width=6)
        maps = decoder.pyramid(levels)
        pixels = 4 * max(PYRAMIDS[pyramid][1]), 6 * max(PYRAMIDS[pyramid][1])
        declared = zip(decoder.pyramid_channels, decoder.pyramid_strides, strict=True)
        assert [tuple(m.shape) for m in maps] == [(2, c, pixels[0] // s, pixels[1] // s) for c, s in declared]
        assert decoder.pyramid_strides == sorted(decoder.pyramid_strides)
        assert torch.equal(decoder.fuse(maps), decoder(levels))

    def test_no_map_of_the_pyramid_is_computed_from_another(self, name: str, pyramid: str) -> None:
        maps = built(name, pyramid).pyramid(levels_of(pyramid))
        for i, one in enumerate(maps):
            others = [m for j, m in enumerate(maps) if j != i]
            assert not others or torch.autograd.grad(one.sum(), others, retain_graph=True, allow_unused=True) == (
                None,
            ) * len(others)

    def test_reads_just_the_levels_that_it_names_and_trains_all_its_parameters(self, name: str, pyramid: str) -> None:
        decoder = built(name, pyramid)
        levels = levels_of(pyramid)
        decoder.train()(levels).square().sum().backward()
        read = [i for i, level in enumerate(levels) if level.grad is not None and level.grad.abs().sum() > 0]
        assert read == list(decoder.levels)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())

    def test_parameters_beyond_the_pyramid_are_known(self, name: str, pyramid: str) -> None:
        decoder = built(name, pyramid).train()
        fusing = {id(p) for p in decoder.fusing(*PYRAMIDS[pyramid])}
        torch.stack([m.square().sum() for m in decoder.pyramid(levels_of(pyramid))]).sum().backward()
        assert fusing == {id(p) for p in decoder.parameters() if p.grad is None}

    def test_images_do_not_mix_in_eval_mode(self, name: str, pyramid: str) -> None:
        decoder = built(name, pyramid).eval()
        levels = levels_of(pyramid, 3)
        alone = torch.cat([decoder([level[i : i + 1] for level in levels]) for i in range(3)])
        torch.testing.assert_close(decoder(levels), alone, rtol=1e-4, atol=1e-5)

    def test_leaves_its_input_alone(self, name: str, pyramid: str) -> None:
        levels = levels_of(pyramid)
        before = [level.detach().clone() for level in levels]
        built(name, pyramid)(levels)
        for level, copy in zip(levels, before, strict=True):
            assert torch.equal(level, copy)


NOT_EXPORTED = ("adaptive", "local_scalar", "nonzero")
"""Operations that ONNX has for some sizes only, or that read a value on the host."""


class Used(TorchDispatchMode):
    """The operations that ran, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def refused(names: set[str]) -> list[str]:
    return [name for name in names if any(word in name for word in NOT_EXPORTED)]


def check_in_a_network(encoder: Encoder, name: str, *sizes: tuple[int, int]) -> None:
    """Declared maps by operations that can be exported, outputs of exactly the images' size, gradients end to end.

    Of one image in training.
    """
    model = network(encoder, name=name).train()
    decoder: Any = model.interaction.decoder
    for height, width in sizes:
        model.zero_grad()
        images = torch.rand(1, 3, height, width)
        features, levels = model.features(images)
        (found,) = features.per_task["semantic"]
        tall, wide = encoder.padded(height, width)
        assert found.shape == (1, decoder.channels, tall // decoder.stride, wide // decoder.stride)
        declared = zip(decoder.pyramid_channels, decoder.pyramid_strides, strict=True)
        expected = [(1, c, -(-tall // s), -(-wide // s)) for c, s in declared]
        with Used() as used:
            maps = decoder.pyramid(levels)
            decoder.fuse(maps)
        assert [tuple(m.shape) for m in maps] == expected
        assert "aten.convolution.default" in used.names
        assert refused(used.names) == []
        output = model.outputs(features, height, width)["semantic"]
        assert output.shape == (1, 3, height, width)
        output.square().mean().backward()
        first = next(p.grad for p in encoder.parameters() if p.ndim > 1)
        assert first is not None
        assert 0 < first.abs().sum() < float("inf")
        for key, parameter in decoder.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", DECODERS)
def test_on_every_family(name: str, family: str) -> None:
    check_in_a_network(encoder_of(family), name, (75, 101))


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("name", DECODERS)
def test_on_three_to_five_levels(name: str, levels: str) -> None:
    encoder = Encoder("test_resnet", options=LEVELS[levels])
    check_in_a_network(encoder, name, (75, 101), (1, 1))


@pytest.mark.parametrize("name", DECODERS)
def test_on_layers_of_a_plain_transformer(name: str) -> None:
    encoder = Encoder("test_vit", options={"out_indices": [1, 2, 3, 5]})
    assert encoder.strides == [16] * 4
    check_in_a_network(encoder, name, (75, 101), (1, 1))


class Decoded(nn.Module):
    """One encoder, and every decoder on it."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        made = {name: DECODERS.load(name)(encoder.channels, encoder.strides, width=16) for name in DECODERS}
        self.decoders = nn.ModuleDict(made)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels = self.encoder(images)
        return {name: decoder(levels) for name, decoder in self.decoders.items()}


@pytest.fixture(scope="module")
def exported() -> tuple[nn.Module, torch.export.ExportedProgram]:
    """The network, and what `torch.export` makes of it with a free batch and image size, in core operations."""
    torch.manual_seed(0)
    network = Decoded(Encoder("test_resnet")).eval()
    shapes = {"images": {0: Dim("batch", max=64), 2: 32 * Dim("rows", max=64), 3: 32 * Dim("columns", max=64)}}
    program = torch.export.export(network, (torch.randn(2, 3, 96, 128),), dynamic_shapes=shapes)
    return network, program.run_decompositions()


@pytest.mark.parametrize("shape", [(1, 3, 160, 64), (3, 3, 64, 224)])
def test_exported_decoders_give_the_same_at_any_size(exported: Any, shape: tuple[int, ...]) -> None:
    network, program = exported
    images = torch.randn(shape)
    found, expected = program.module()(images), network(images)
    assert found.keys() == expected.keys() == set(DECODERS)
    for name in DECODERS:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_exported_decoders_use_operations_that_onnx_has_at_any_size(exported: Any) -> None:
    used = {str(node.target) for node in exported[1].graph.nodes if node.op == "call_function"}
    assert "aten.convolution.default" in used
    assert refused(used) == []


def test_layers_of_one_stride_are_exported_at_any_size() -> None:
    """As a plain transformer gives them; only here levels are resampled."""
    decoder = built("dpt", "of one stride").eval()
    free = {0: Dim("batch", max=64), 2: Dim("rows", min=3, max=64), 3: Dim("columns", min=3, max=64)}
    levels = [level.detach() for level in levels_of("of one stride", height=4, width=6)]
    program = torch.export.export(decoder, (levels,), dynamic_shapes=([free] * 4,)).run_decompositions()
    others = [torch.randn(3, 24, 7, 5) for _ in range(4)]
    torch.testing.assert_close(program.module()(others), decoder(others), rtol=1e-4, atol=1e-5)
    assert refused({str(node.target) for node in program.graph.nodes if node.op == "call_function"}) == []


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [(name, option, value) for name in DECODERS for option in DECODERS.options(name) for value in WRONG[option]],
)
def test_wrong_values_are_named(name: str, option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.decoder\.{option}.*: found .*; expected "):
        network(encoder_of("test_resnet"), **{"name": name, option: value})


def test_wrong_values_of_a_tasks_own_decoder_are_named() -> None:
    for wrong, message in (
        ({"name": "dpt", "width": 0}, "width: found 0; expected 1 or more"),
        ({"name": "unet", "rates": [6]}, "rates: unknown key; did you mean "),
        ({"name": 3}, "name: found 3; expected one of deeplabv3plus, "),
    ):
        with pytest.raises(ConfigError, match=rf"^tasks\.semantic\.decoder\.{message}"):
            create_model([Semantic("semantic", classes=3, decoder=wrong)], encoder_of("test_resnet"))
    with pytest.raises(ConfigError, match=r"^tasks\.semantic\.decoder: unknown decoder 'unett'; nearest: 'unet'"):
        create_model([Semantic("semantic", classes=3, decoder="unett")], encoder_of("test_resnet"))


@pytest.mark.parametrize("name", [name for name in DECODERS if name != "fpn"])
def test_a_task_trains_a_decoder_of_its_own_beside_the_shared_one(name: str) -> None:
    torch.manual_seed(0)
    tasks = [Semantic("semantic", classes=3, decoder=name), Depth("depth"), Depth("other")]
    model = create_model(tasks, Encoder("test_resnet"), decoder={"name": "fpn", "width": 16})
    own, shared = model.interaction.own["semantic"], model.interaction.decoder
    assert type(own).__name__ == DECODERS[name]
    assert type(shared).__name__ == "FPN"
    assert {id(p) for p in own.parameters()} < {id(p) for p in model.private()["semantic"]}
    assert {id(p) for p in shared.parameters()} < {id(p) for p in model.shared()}
    targets = {
        "semantic": Labelled(torch.arange(2), torch.randint(0, 3, (2, 40, 56), dtype=torch.uint8)),
        "depth": Labelled(torch.arange(2), torch.rand(2, 40, 56) + 1),
        "other": Labelled(torch.arange(1), torch.rand(1, 40, 56) + 1),
    }
    before = {key: value.clone() for key, value in model.named_parameters()}
    batch = Batch(["a", "b"], torch.rand(2, 3, 40, 56), targets)
    step = next(iter(fit(model, [batch], optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3))))
    assert not step.not_finite
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert [key for key in still if not key.startswith("encoder.")] == []
    assert "encoder.body.conv1.0.weight" in before.keys() - still
