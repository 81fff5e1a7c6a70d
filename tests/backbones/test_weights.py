"""Weights files: what of them is taken, what the report says, and what is refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from segweave.backbones import Encoder
from segweave.backbones.weights import Matched, grouped
from segweave.errors import ConfigError

PARTIAL = {"pad_type": "same", "bn_eps": 1e-3, "out_indices": [0, 1, 2, 3]}


@pytest.fixture(scope="module")
def source() -> dict[str, Tensor]:
    """A whole classifier's tensors, under timm's own names."""
    torch.manual_seed(3)
    return timm.create_model("test_resnet", num_classes=7).state_dict()


def saved(state: Any, path: Path) -> str:
    torch.save(state, path) if path.suffix == ".pth" else save_file(state, path)
    return str(path)


def matched(encoder: Encoder) -> Matched:
    assert encoder.matched is not None
    return encoder.matched


def equal(encoder: Encoder, source: dict[str, Tensor]) -> bool:
    own = encoder.body.state_dict()
    return all(torch.equal(own[key], source[key]) for key in own if not key.endswith("num_batches_tracked"))


class TestRealFiles:
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_partial_mobilenet(self, real_data: Path, suffix: str) -> None:
        path = real_data / "weights" / f"mobilenetv1_100_partial{suffix}"
        encoder = Encoder("mobilenetv1_100", pretrained=str(path), options=PARTIAL)
        assert encoder.strides == [2, 4, 8, 16]
        assert str(encoder.matched).splitlines()[0].startswith("115 of 115 encoder tensors loaded from mobilenetv1")
        whole = Encoder("mobilenetv1_100", pretrained=str(path), options=PARTIAL | {"out_indices": [0, 1, 2, 3, 4]})
        assert str(whole.matched).splitlines() == [
            f"134 of 135 encoder tensors loaded from mobilenetv1_100_partial{suffix}",
            "  not in the file, left as initialised: blocks.4.1.conv_pw.weight",
            "  in the file but not used: classifier.* (2)",
        ]

    def test_levels_are_those_of_timms_own_loading(self, real_data: Path) -> None:
        path = real_data / "weights" / "mobilenetv2_035.pth"
        options = {"pad_type": "same", "bn_eps": 1e-3}
        whole = timm.create_model("mobilenetv2_035", num_classes=0, **options)
        whole.load_state_dict(torch.load(path, weights_only=True), strict=True)
        encoder = Encoder("mobilenetv2_035", pretrained=str(path), options=options).eval()
        images = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            expected: Any = whole.eval().forward_intermediates(images, intermediates_only=True)
            levels = encoder(images)
        for level, other in zip(levels, expected, strict=True):
            torch.testing.assert_close(level, other)


class TestNames:
    @pytest.mark.parametrize(
        ("wrap", "prefix"),
        [
            (lambda s: s, ""),
            (lambda s: {"state_dict": s, "epoch": 3}, "state_dict."),
            (lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}, "model."),
            (lambda s: {f"module.{k}": v for k, v in s.items()}, "module."),
            (lambda s: {"model": {f"module.backbone.{k}": v for k, v in s.items()}}, "model.module.backbone."),
            (lambda s: {f"encoder_q.{k}": v for k, v in s.items()} | {"queue": torch.ones(4)}, "encoder_q."),
            (lambda s: {"state_dict": _zeros(s), "state_dict_ema": s}, "state_dict_ema."),
            (lambda s: {"teacher": {"backbone": s}, "loss": torch.ones(2)}, "teacher.backbone."),
        ],
    )
    def test_are_found_under_any_prefix(
        self, tmp_path: Path, source: dict[str, Tensor], wrap: Callable[[Any], Any], prefix: str
    ) -> None:
        encoder = Encoder("test_resnet", saved(wrap(source), tmp_path / "w.pth"))
        report = matched(encoder)
        assert report.prefix == prefix
        assert not report.missing
        assert not report.reshaped
        assert f"{prefix}fc.weight" in report.unused
        assert equal(encoder, source)

    def test_of_modules_that_timm_renames_where_it_cuts(self, tmp_path: Path) -> None:
        whole = timm.create_model("test_convnext").state_dict()
        report = matched(Encoder("test_convnext", saved(whole, tmp_path / "w.safetensors")))
        assert not report.missing
        assert all(name.startswith("head") for name in report.unused)

    def test_of_a_wrapped_transformer(self, tmp_path: Path) -> None:
        whole = timm.create_model("test_vit").state_dict()
        report = matched(Encoder("test_vit", saved(whole, tmp_path / "w.safetensors")))
        assert not report.missing
        assert report.prefix == ""

    def test_of_an_encoder_inside_a_trained_network(self, tmp_path: Path) -> None:
        first = Encoder("test_vit")
        state = {f"encoder.{key}": value for key, value in first.state_dict().items()}
        second = Encoder("test_vit", saved(state, tmp_path / "w.safetensors"))
        assert not matched(second).missing
        for a, b in zip(first.body.parameters(), second.body.parameters(), strict=True):
            assert torch.equal(a, b)

    def test_of_torchvision_where_they_are_the_same(self, tmp_path: Path) -> None:
        state = torchvision.models.resnet18(weights=None).state_dict()
        encoder = Encoder("resnet18", saved(state, tmp_path / "w.pth"))
        assert str(encoder.matched).splitlines() == [
            "100 of 100 encoder tensors loaded from w.pth",
            "  in the file but not used: fc.* (2)",
        ]
        assert equal(encoder, state)

    def test_of_torchvision_where_they_are_not(self, tmp_path: Path) -> None:
        path = saved(torchvision.models.mobilenet_v2(width_mult=0.35).state_dict(), tmp_path / "w.pth")
        expected = r"none of its \d+ tensors fits .* the file has features.0.0.weight.* expects conv_stem.weight"
        with pytest.raises(ConfigError, match=expected):
            Encoder("mobilenetv2_035", path)


class TestValues:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_are_converted(self, tmp_path: Path, source: dict[str, Tensor], dtype: torch.dtype) -> None:
        state = {key: v.to(dtype) if v.is_floating_point() else v for key, v in source.items()}
        encoder = Encoder("test_resnet", saved(state, tmp_path / "w.safetensors"))
        assert all(p.dtype == torch.float32 for p in encoder.parameters())
        assert equal(encoder, {key: v.float() for key, v in state.items()})

    @pytest.mark.parametrize("bands", [1, 4, 6])
    def test_of_the_first_convolution_fit_other_bands(
        self, tmp_path: Path, source: dict[str, Tensor], bands: int
    ) -> None:
        encoder = Encoder("test_resnet", saved(source, tmp_path / "w.pth"), in_channels=bands)
        report = matched(encoder)
        assert not report.reshaped
        width = source["conv1.0.weight"].shape[0]
        assert report.adapted == [f"conv1.0.weight ({width}x3x3x3 for {width}x{bands}x3x3)"]
        # the answer to a grey image of one brightness in all bands is that of the RGB network
        own = encoder.body.state_dict()["conv1.0.weight"]
        if bands % 3 == 0 or bands == 1:
            torch.testing.assert_close(own.sum(1), source["conv1.0.weight"].sum(1))
        assert "fitted to the number of bands: conv1.0.weight" in str(report)

    def test_of_another_shape_are_left_and_told(self, tmp_path: Path, source: dict[str, Tensor]) -> None:
        state = dict(source) | {"layer2.0.conv1.weight": torch.zeros(5, 5)}
        report = matched(Encoder("test_resnet", saved(state, tmp_path / "w.pth")))
        assert len(report.reshaped) == 1
        assert "of another shape, left as initialised: layer2.0.conv1.weight (5x5 for 48x32x3x3)" in str(report)

    def test_that_are_not_finite_are_refused(self, tmp_path: Path, source: dict[str, Tensor]) -> None:
        state = dict(source) | {"bn1.weight": torch.full_like(source["bn1.weight"], float("nan"))}
        with pytest.raises(ConfigError, match=r"w\.pth: bn1\.weight holds numbers that are not finite"):
            Encoder("test_resnet", saved(state, tmp_path / "w.pth"))


class TestReport:
    def test_groups_by_module(self) -> None:
        assert grouped(["fc.weight", "fc.bias"]) == "fc.* (2)"
        assert grouped(["cls_token"]) == "cls_token"
        assert grouped(["a.0.w", "a.0.b", "a.1.w", "b.w"], groups=2) == "a.* (3), b.w"
        assert grouped([f"m{i}.{p}" for i in range(6) for p in "wb"], groups=4).endswith("m3.* (2) and 4 more")

    def test_a_file_of_another_encoder_stays_short_and_is_suspected(self, tmp_path: Path) -> None:
        path = saved(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
        lines = str(Encoder("resnet50", path).matched).splitlines()
        assert lines[0].endswith("fewer than half: is the file of another encoder?")
        assert len(lines) <= 5
        assert max(map(len, lines)) < 300

    def test_half_a_file(self, tmp_path: Path, source: dict[str, Tensor]) -> None:
        state = {key: value for key, value in source.items() if not key.startswith(("layer3", "layer4"))}
        lines = str(Encoder("test_resnet", saved(state, tmp_path / "w.pth")).matched).splitlines()
        missing = sum(k.startswith(("layer3", "layer4")) and not k.endswith("num_batches_tracked") for k in source)
        counts = [int(part.split(")")[0]) for part in lines[1].split("(")[1:]]
        assert lines[1].startswith("  not in the file, left as initialised: layer3")
        assert sum(counts) == missing


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


class TestRefusals:
    def refused(self, path: Path | str, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            Encoder("test_resnet", str(path))
        assert "weights_only" not in str(caught.value)

    def test_missing_file_and_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none.pth", r"none\.pth: no such file")
        self.refused(tmp_path, "a folder, not a file")

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_pickle_with_code_is_not_run(self, tmp_path: Path, source: dict[str, Tensor], suffix: str) -> None:
        for name, write in (("zip", torch.save), ("plain", lambda s, p: p.write_bytes(pickle.dumps(s)))):
            path = tmp_path / f"{name}{suffix}"
            write({"state_dict": source, "args": Trap(tmp_path / "owned")}, path)
            self.refused(path, "not a weights file")
            assert not (tmp_path / "owned").exists()

    def test_pickled_weights_under_the_other_name(self, tmp_path: Path, source: dict[str, Tensor]) -> None:
        torch.save(source, tmp_path / "w.safetensors")
        self.refused(tmp_path / "w.safetensors", "not a weights file")
        save_file(source, tmp_path / "w.pth")
        self.refused(tmp_path / "w.pth", "not a weights file")

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    @pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
    def test_truncated(self, tmp_path: Path, source: dict[str, Tensor], suffix: str, kept: float) -> None:
        path = Path(saved(source, tmp_path / f"w{suffix}"))
        data = path.read_bytes()
        path.write_bytes(data[: int(kept * len(data))])
        self.refused(path, "not a weights file")

    @pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "text.txt"])
    def test_text(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("conv1.weight: 3\n" * 20)
        self.refused(tmp_path / name, "not a weights file")

    @pytest.mark.parametrize("value", [torch.ones(3), [1, 2], {"epoch": 3}, {}])
    def test_no_tensors_by_name(self, tmp_path: Path, value: Any) -> None:
        self.refused(saved(value, tmp_path / "w.pth"), "expected tensors by name")

    def test_whole_modules(self, tmp_path: Path) -> None:
        torch.save(torch.nn.Conv2d(3, 3, 3), tmp_path / "w.pth")
        self.refused(tmp_path / "w.pth", "not a weights file, or one that would have to run code, which is refused")


def _zeros(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(value) for key, value in state.items()}
