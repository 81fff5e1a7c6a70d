"""Encoders of many families against one contract: exact channels and strides, gradients, sizes, and clear refusals."""

from __future__ import annotations

from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch

from segweave.backbones import Encoder
from segweave.backbones.simple_pyramid import SimplePyramid
from segweave.errors import ConfigError

THIN_SWIN = {"embed_dim": 16, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 4]}
THIN_VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_convnext": {},
    "test_efficientnet": {},
    "test_nfnet": {},
    "test_byobnet": {},
    "test_mambaout": {},  # maps of shape [B, H, W, C]
    "mobilenetv1_100": {"pad_type": "same", "bn_eps": 1e-3, "out_indices": [0, 1, 2, 3]},
    "mobilenetv2_035": {},
    "mobilenetv3_small_050": {},
    "mobilevitv2_050": {},  # patches of 2 x 2 positions
    "regnetx_002": {},
    "efficientvit_m0": {},  # stride 64
    "pvt_v2_b0": {},
    "swin_tiny_patch4_window7_224": THIN_SWIN,  # [B, H, W, C] and windows
    "swinv2_tiny_window8_256": THIN_SWIN,
    "maxvit_rmlp_pico_rw_256": {"img_size": 64},  # sizes in whole windows
    "test_coatnet": {},  # one size only
    "test_vit": {},
    "test_vit_relpos": {},  # plain, and one size only
    "beit_base_patch16_224": THIN_VIT | {"img_size": 64},
    "eva02_tiny_patch14_224": THIN_VIT,
    "vit_small_patch14_reg4_dinov2.lvd142m": THIN_VIT,
    "xcit_nano_12_p8_224": {"depth": 3},
    "sequencer2d_s": {"embed_dims": [32, 48, 48, 48], "hidden_sizes": [8, 12, 12, 12], "layers": [1, 1, 1, 1]},
    "legacy_xception": {},  # unpadded convolutions
}


@pytest.mark.parametrize("name", FAMILIES)
def test_contract(name: str) -> None:
    encoder = Encoder(name, options=FAMILIES[name])
    assert len(encoder.names) == len(encoder.channels) == len(encoder.strides)
    assert encoder.strides == sorted(encoder.strides)
    for size, batch in (((97, 131), 2), ((1, 1), 1)):
        height, width = encoder.padded(*size)
        assert height >= size[0]
        assert width >= size[1]
        levels = encoder.train()(torch.randn(batch, 3, height, width))
        expected = [(batch, c, height // s, width // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)]
        assert [tuple(level.shape) for level in levels] == expected
        assert all(height % stride == width % stride == 0 for stride in encoder.strides)
        encoder.zero_grad()
        sum(level.square().mean() for level in levels).backward()
        first = next(p.grad for p in encoder.parameters() if p.ndim > 1)
        assert first is not None
        assert 0 < first.abs().sum() < float("inf")
        assert all(p.grad is not None for p in encoder.parameters())


def test_building_leaves_the_statistics_and_the_mode_alone() -> None:
    encoder = Encoder("test_resnet")
    assert all(module.training for module in encoder.modules())
    assert all(int(v) == 0 for k, v in encoder.state_dict().items() if k.endswith("num_batches_tracked"))


class TestSizes:
    def test_are_multiples_of_the_coarsest_stride_and_at_least_two_of_it(self) -> None:
        encoder = Encoder("test_resnet")
        assert encoder.size_multiple == (32, 32)
        assert encoder.tile is None
        sizes = [(64, 64), (65, 97), (1, 500), (360, 480)]
        assert [encoder.padded(*size) for size in sizes] == [(64, 64), (96, 128), (64, 512), (384, 480)]

    def test_are_whole_windows_where_the_encoder_has_windows(self) -> None:
        assert Encoder("maxvit_rmlp_pico_rw_256", options={"img_size": [96, 96]}).size_multiple == (96, 96)
        assert Encoder("mobilevitv2_050").size_multiple == (64, 64)

    def test_an_encoder_of_one_size_runs_on_tiles(self) -> None:
        encoder = Encoder("test_coatnet").eval()
        assert encoder.tile == encoder.size_multiple == (160, 160)
        images = torch.randn(2, 3, 160, 320)
        with torch.no_grad():
            whole, left, right = encoder(images), encoder(images[..., :160]), encoder(images[..., 160:])
        for level, a, b in zip(whole, left, right, strict=True):
            torch.testing.assert_close(level, torch.cat([a, b], 3), rtol=1e-4, atol=1e-5)

    def test_tiles_may_be_oblong(self) -> None:
        encoder = Encoder("test_vit_relpos", options={"img_size": [32, 64]}).eval()
        assert encoder.tile == (32, 64)
        images = torch.randn(1, 3, 96, 128)
        with torch.no_grad():
            whole, tile = encoder(images), encoder(images[..., 64:, 64:])
        torch.testing.assert_close(whole[2][..., 4:, 4:], tile[2], rtol=1e-4, atol=1e-5)

    def test_a_plain_encoder_sees_the_whole_image(self) -> None:
        encoder = Encoder("test_vit").eval()
        images = torch.randn(1, 3, 64, 64, requires_grad=True)
        encoder(images)[2][0, 0, 0, 0].backward()
        assert images.grad is not None
        assert images.grad[..., -16:, -16:].abs().sum() > 0


class TestSimplePyramid:
    @pytest.mark.parametrize(
        ("stride", "strides", "channels"),
        [
            (16, [4, 8, 16, 32], [6, 12, 24, 24]),
            (14, [7, 14, 28], [12, 24, 24]),
            (8, [4, 8, 16], [12, 24, 24]),
            (7, [7, 14], [24, 24]),
            (32, [8, 16, 32, 64], [6, 12, 24, 24]),
        ],
    )
    def test_levels(self, stride: int, strides: list[int], channels: list[int]) -> None:
        pyramid = SimplePyramid(24, stride)
        assert (pyramid.strides, pyramid.channels) == (strides, channels)
        assert pyramid.strides[pyramid.native] == stride
        levels = pyramid(torch.randn(2, 24, 4, 6))
        assert [tuple(level.shape) for level in levels] == [
            (2, c, 4 * stride // s, 6 * stride // s) for c, s in zip(channels, strides, strict=True)
        ]

    def test_native_level_is_the_normalised_map_and_the_coarser_its_maximum(self) -> None:
        features = torch.randn(2, 24, 4, 6)
        pyramid = SimplePyramid(24, 16)
        levels = pyramid(features)
        centred = features - features.mean(1, keepdim=True)
        native = centred / (features.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(levels[pyramid.native], native, rtol=1e-4, atol=1e-5)
        expected = native.unflatten(3, (3, 2)).unflatten(2, (2, 2)).amax((3, 5))
        torch.testing.assert_close(levels[-1], expected, rtol=1e-4, atol=1e-5)

    def test_levels_share_no_parameter_but_the_norms(self) -> None:
        pyramid = SimplePyramid(24, 16)
        pyramid(torch.randn(1, 24, 4, 4))[0].sum().backward()
        assert all(p.grad is not None for p in pyramid.finer[0].parameters())
        assert all(p.grad is None for p in pyramid.finer[1].parameters())

    def test_named_layers_are_taken_as_they_are(self) -> None:
        encoder = Encoder("test_vit", options={"out_indices": [1, 3, 5]})
        assert encoder.pyramid is None
        assert (encoder.strides, encoder.names) == ([16, 16, 16], ["blocks.1", "blocks.3", "blocks.5"])
        assert encoder.size_multiple == (16, 16)


class TestLevel:
    def test_by_stride_module_or_encoder(self) -> None:
        encoder = Encoder("test_resnet")
        assert [encoder.level(n) for n in ("stride2", "stride16", "layer3", "layer4", "encoder")] == [0, 3, 3, 4, 4]

    def test_the_last_of_one_stride(self) -> None:
        encoder = Encoder("test_vit", options={"out_indices": [1, 3, 5]})
        assert [encoder.level(n) for n in ("stride16", "blocks.1", "encoder")] == [2, 0, 2]

    def test_encoder_is_the_encoders_own_map_not_the_pooled_one(self) -> None:
        encoder = Encoder("test_vit")
        assert encoder.strides == [4, 8, 16, 32]
        assert [encoder.level(n) for n in ("encoder", "stride16", "blocks.5", "stride32", "pyramid4")] == [
            2,
            2,
            2,
            3,
            0,
        ]

    def test_unknown_one_names_the_known(self) -> None:
        with pytest.raises(ConfigError, match=r"'layer9' is no level .* encoder, stride2, .* layer4"):
            Encoder("test_resnet").level("layer9")


class TestBands:
    @pytest.mark.parametrize("bands", [1, 2, 4, 8])
    def test_any_number(self, bands: int) -> None:
        encoder = Encoder("test_resnet", in_channels=bands)
        assert len(encoder.mean) == len(encoder.std) == bands
        assert len(encoder(torch.randn(2, bands, 64, 64))) == 5

    def test_statistics_are_those_of_the_weights(self) -> None:
        config: Any = timm.get_pretrained_cfg("test_resnet")
        red, green, blue = config.mean
        assert Encoder("test_resnet").mean == [red, green, blue]
        assert Encoder("test_resnet", in_channels=4).mean == [red, green, blue, red]
        assert Encoder("test_resnet", in_channels=1).mean == [pytest.approx((red + green + blue) / 3)]
        tagged = Encoder("vit_small_patch14_reg4_dinov2.lvd142m", options=THIN_VIT)
        assert tagged.mean == [0.485, 0.456, 0.406]


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("resnet51", {}, r"unknown timm encoder 'resnet51'; nearest: 'resnet51q', 'resnet50'"),
            ("test_resnet.nope", {}, r"Invalid pretrained tag \(nope\).*timm has test_resnet\.r160_in1k"),
            ("test_resnet", {"colour": 1}, r"test_resnet cannot be built with .*'colour'"),
            ("test_resnet", {"out_indices": [9]}, r"test_resnet cannot be built with .*9"),
            ("test_resnet", {"in_chans": 4}, r"backbone_options\.in_chans: .*follows from the data"),
            ("test_resnet", {"checkpoint_path": "a.pth"}, r"checkpoint_path: .*write model\.pretrained"),
            ("crossvit_tiny_240", {"depth": [[1, 1, 0]] * 3}, r"no maps that line up .* another family is '\w+'"),
        ],
    )
    def test_at_construction(self, name: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Encoder(name, options=options)

    def test_without_feature_maps_the_nearest_family_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        build = timm.create_model

        def create(name: str, **options: Any) -> Any:
            if name.startswith("test_vit"):
                raise RuntimeError("features_only not implemented for Vision Transformer models.")
            return build(name, **options)

        monkeypatch.setattr(timm, "create_model", create)
        with pytest.raises(ConfigError, match=r"timm gives no feature maps of test_vit; .* another family is '(.*)'"):
            Encoder("test_vit")

    def test_weights_without_a_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ConfigError, match=r"model\.pretrained: timm's weights for test_resnet .*Give the path of"):
            Encoder("test_resnet", pretrained=True)

    def test_weights_that_timm_does_not_have(self) -> None:
        with pytest.raises(ConfigError, match=r"model\.pretrained: .*No pretrained weights exist.* Give the path"):
            Encoder("cspresnet50d", pretrained=True)
