"""Images and predictions at the size that a picture needs."""

from __future__ import annotations

import pytest
import torch

from segweave.drawing import shown, thinned


@pytest.mark.parametrize(("bands", "expected"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_any_number_of_bands_is_shown_as_three(bands: int, expected: list[int]) -> None:
    image = torch.arange(bands, dtype=torch.uint8)[:, None, None].expand(bands, 4, 6) * 40
    for size in ((4, 6), (2, 3)):
        assert torch.equal(
            shown(image, size), 40 * torch.tensor(expected, dtype=torch.uint8)[:, None, None].expand(3, *size)
        )


@pytest.mark.parametrize(
    ("dtype", "half"), [(torch.uint8, 128), (torch.uint16, 32896), (torch.float32, 128 / 255)], ids=str
)
def test_every_type_of_value_becomes_bytes(dtype: torch.dtype, half: float) -> None:
    image = torch.full((3, 8, 8), half).to(dtype)
    for size in ((8, 8), (3, 5)):
        assert shown(image, size).dtype == torch.uint8
        assert (shown(image, size) == 128).all()


def test_maps_are_thinned_to_the_pixels_at_the_centres_and_nothing_else_is() -> None:
    labels = torch.arange(24).view(4, 6)
    found = thinned({"labels": labels, "scores": labels.float()[None], "boxes": torch.ones(5, 4)}, 4, 6, (2, 3))
    assert found["labels"].tolist() == [[7, 9, 11], [19, 21, 23]]
    assert found["scores"].tolist() == [[[7, 9, 11], [19, 21, 23]]]
    assert found["boxes"].shape == (5, 4)
    whole = {"labels": labels}
    assert thinned(whole, 4, 6, (4, 6)) is whole
