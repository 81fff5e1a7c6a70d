"""The mean and deviation of bands, against NumPy in float64 over all pixels at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segweave.batch import Sample
from segweave.data import normalisation
from segweave.data.dataset import Dataset
from segweave.data.normalisation import Moments, measure
from segweave.errors import DataError, UnreadableError

TOP = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


class Images(Dataset):
    """Images from memory; an error stands for one that cannot be read."""

    def __init__(self, images: Mapping[str, Tensor | Exception]) -> None:
        self.images = images
        self.ids = list(images)

    def __getitem__(self, index: int) -> Sample:
        image = self.images[self.ids[index]]
        if isinstance(image, Exception):
            raise image
        return Sample(self.ids[index], image, {})

    def annotation(self, index: int, task: str) -> Tensor | None:  # noqa: ARG002
        return None

    def labelled(self, task: str) -> int:  # noqa: ARG002
        return 0

    def fingerprint(self) -> str:
        return ""


def noise(kind: str, bands: int, sizes: Sequence[tuple[int, int]], seed: int = 0) -> list[Tensor]:
    random = np.random.default_rng(seed)
    made = []
    for height, width in sizes:
        if kind == "float32":  # kelvins: the deviation is small beside the mean
            values = random.normal(290, 0.5, (bands, height, width)).astype(kind)
        else:
            values = random.integers(0, 2000 if kind == "uint16" else 255, (bands, height, width)).astype(kind)
        made.append(torch.from_numpy(values))
    return made


@pytest.mark.parametrize("block", [7, 1 << 22])
@pytest.mark.parametrize("kind", TOP)
@pytest.mark.parametrize("bands", [1, 4, 13])
def test_equal_to_numpy_over_all_pixels(kind: str, bands: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalisation, "_BLOCK", block)
    images = noise(kind, bands, [(5, 7), (1, 1), (12, 9), (3, 40)])
    found = measure(Images({str(i): image for i, image in enumerate(images)}))
    pixels = np.concatenate([image.flatten(1).numpy() for image in images], 1).astype(np.float64) / TOP[kind]
    np.testing.assert_allclose(found.mean, pixels.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(1), rtol=1e-12)
    assert (found.images, found.of) == (4, 4)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_neither_order_nor_cuts_matter(sizes: list[tuple[int, int]], seed: int) -> None:
    images = noise("float32", 2, sizes, seed)
    forward, backward, whole = Moments(), Moments(), Moments()
    for one, other in zip(images, reversed(images), strict=True):
        forward.update(one)
        backward.update(other)
    whole.update(torch.cat([image.flatten(1) for image in images], 1)[:, None])
    for moments in (forward, backward):
        np.testing.assert_allclose(moments.mean, whole.mean, rtol=1e-13)
        np.testing.assert_allclose(moments.std(), whole.std(), rtol=1e-12)


def test_channels_last_in_memory_count_the_same() -> None:
    image = noise("uint16", 4, [(6, 8)])[0]
    one, other = Moments(), Moments()
    one.update(image)
    other.update(image.permute(1, 2, 0).contiguous().permute(2, 0, 1))
    np.testing.assert_array_equal(one.mean, other.mean)


def test_a_constant_band_has_deviation_one() -> None:
    found = measure(Images({"a": torch.full((2, 4, 4), 51, dtype=torch.uint8)}))
    assert found.std == [1.0, 1.0]
    assert found.mean == pytest.approx([0.2, 0.2], rel=1e-15)
    assert measure(Images({"a": torch.full((1, 7, 9), 0.1), "b": torch.full((1, 3, 5), 0.1)})).std == [1.0]


def test_at_most_so_many_images_spread_over_the_set() -> None:
    images = {str(i): torch.full((1, 2, 2), i, dtype=torch.uint8) for i in range(10)}
    found = measure(Images(images), limit=3)
    assert found.mean[0] == pytest.approx((0 + 3 + 6) / 3 / 255, rel=1e-12)
    assert str(found) == "normalisation: mean and deviation of 1 band over 3 of 10 training images"
    assert measure(Images(images), limit=99).images == 10


def test_unreadable_images_are_left_out() -> None:
    good = torch.full((1, 2, 2), 102, dtype=torch.uint8)
    found = measure(Images({"a": UnreadableError("a: damaged"), "b": good}))
    assert (found.mean, found.images, found.of) == ([pytest.approx(0.4)], 1, 2)
    with pytest.raises(DataError, match="none of 1 training images"):
        measure(Images({"a": UnreadableError("a: damaged")}))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (torch.zeros(13, 2, 2).to(torch.uint16), "second: found 13 bands of uint16; expected 4 .*as first has"),
        (torch.zeros(4, 2, 2), "second: found 4 bands of float32; expected 4 bands of uint16, as first has"),
        (DataError("second.tif: found 13 bands"), r"second\.tif: found 13 bands Another image, first, has 4 bands"),
    ],
)
def test_images_that_differ_are_both_named(other: Tensor | Exception, says: str) -> None:
    with pytest.raises(DataError, match=says):
        measure(Images({"first": torch.zeros(4, 2, 2, dtype=torch.uint16), "second": other}))


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match=r"a: found values that are not finite; .*data\.bands"):
        measure(Images({"a": torch.full((1, 2, 2), float("nan"))}))


def test_real_images(real_data: Path) -> None:
    from segweave.rasters import read_image

    tiles = sorted((real_data / "spacenet_sample" / "solaris" / "data").glob("rastertile_test_expected/*.tif"))[:20]
    images = {path.name: read_image(path, bands=1)[0] for path in tiles}
    found = measure(Images(images))
    pixels = np.concatenate([image.flatten().numpy() for image in images.values()]).astype(np.float64) / 65535
    assert found.mean[0] == pytest.approx(pixels.mean(), rel=1e-12)
    assert found.std[0] == pytest.approx(pixels.std(), rel=1e-12)
    assert found.std[0] < 0.05  # 11 bits of 16: by ImageNet's 0.23 the network would see a nearly constant image
