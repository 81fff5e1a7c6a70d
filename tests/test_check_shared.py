"""`segweave check` on the real data: it finds every defect that the SOURCE.md of a folder names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from segweave import config
from segweave.check import Checked, check
from segweave.data import CamVid
from segweave.schema import check_config


@pytest.fixture
def findings(real_data: Path, tmp_path: Path) -> Any:
    """Of data with these options of a config and these tasks, as `level: text`."""

    def run(folder: str, tasks: dict[str, Any], /, **options: Any) -> list[str]:
        root = real_data / folder
        if not root.is_dir():
            pytest.skip(f"no {root}")
        values = {"data": {"root": str(root), **options}, "tasks": tasks, "train": {"batch_size": 2}}
        checked: Checked = check(check_config(config.from_values(values)), tmp_path / "page", 0)
        return [f"{finding.level}: {finding.text}" for finding in checked.findings]

    return run


def found(findings: list[str], pattern: str) -> re.Match[str]:
    """The one finding of that pattern."""
    matches = [match for text in findings if (match := re.search(pattern, text))]
    assert len(matches) == 1, "\n".join(findings)
    return matches[0]


def errors(findings: list[str]) -> list[str]:
    return [text for text in findings if text.startswith("error")]


SEMANTIC = {"kind": "semantic"}


def test_camvid(findings: Any) -> None:
    """The test split that the subset leaves out, the void, and lists whose paths begin elsewhere."""
    release = findings("camvid", {"semantic": SEMANTIC}, format="camvid")
    assert not errors(release)
    found(release, "advice: train: .*no folder 'test', which the release has")
    classes = CamVid.default_classes()["semantic"]
    semantic = {**SEMANTIC, "classes": list(classes)}
    folder: dict[str, Any] = {"images": "{split}", "tasks": {"semantic": "{split}annot"}}
    # as a plain folder, the void of the files is named until the config says what it is
    found(
        findings("camvid/CamVid", {"semantic": semantic}, format="folder", **folder),
        r"error: .*label id 11 \(\d+ pixels\)",
    )
    folder["splits"] = {"train": "train.txt", "val": "val.txt"}
    lists = findings("camvid/CamVid", {"semantic": semantic | {"ignore": 11}}, format="folder", **folder)
    assert not errors(lists)


def test_nyuv2(findings: Any) -> None:
    """The label that is two things, the white frame of the images, and neighbouring frames."""
    tasks = {"semantic": SEMANTIC, "depth": {"kind": "depth", "max_depth": 10}}
    release = findings("nyuv2", tasks, format="nyuv2")
    assert not errors(release)
    found(release, r"advice: label 39 is both 'otherprop' and what nobody labelled: not labelled \(300")
    found(release, r"warning: images: a frame of one colour round the image \(\d{2,} images")
    found(release, r"warning: semantic: a border without labels all round \((300|29\d) images")


def test_nyuv2_as_a_plain_folder(findings: Any) -> None:
    """That 39 is two things stands nowhere in the files, but it is the frame that nobody labelled."""
    folder = {"format": "folder", "images": "nyu_images", "tasks": {"semantic": "nyu_labels40"}}
    semantic = {**SEMANTIC, "classes": 40}
    plain = findings("nyuv2/data", {"semantic": semantic}, **folder)
    frame = r"warning: semantic: 'class 39' is a frame about 4 pixels wide round (300|29\d) of 300 labels, .*\.ignore"
    found(plain, frame)
    mended = findings("nyuv2/data", {"semantic": semantic | {"ignore": 39}}, **folder)
    assert not [text for text in mended if "pixels wide" in text]


def test_cwfid(findings: Any) -> None:
    """Image 28 in both splits, absent files, vegetation that is not labelled, and the mask whose 1 is soil."""
    tasks = {"vegetation": SEMANTIC, "plants": SEMANTIC, "objects": {"kind": "detection"}}
    release = findings("cwfid", tasks, format="cwfid", val=0.3)
    assert not errors(release)
    found(release, r"warning: 1 image of test also in (train|val) \(equal pixels\): (train|val)/028 and test/028")
    found(release, r"advice: train: .*train_test_split.yaml: 028 in train and in test")
    found(release, r"advice: train: .*train_test_split.yaml: 26 of 40 train images are absent, such as 023")
    found(release, r"advice: test: .*train_test_split.yaml: 14 of 21 test images are absent, such as 015")
    masks = {"vegetation": {**SEMANTIC, "classes": ["vegetation"]}}
    plain = {"images": "images/{stem}_image.png", "tasks": {"vegetation": "masks/{stem}_mask.png"}}
    folder = findings("cwfid", masks, format="folder", **plain)
    found(
        folder, r"warning: vegetation: 'vegetation' covers over \d+ % of the pixels in \d+ of 20 images; .* invert them"
    )


def test_dsb2018(findings: Any) -> None:
    """Images of many sizes, transparency, and nuclei that overlap."""
    tasks = {"semantic": SEMANTIC, "objects": {"kind": "detection"}}
    release = findings("dsb2018", tasks, format="dsb2018")
    found(release, r"error: training images have \d+ sizes")
    found(release, r"advice: RGBA: alpha dropped \(83\)")
    overlaps = [text for text in release if re.search(r"advice: [0-9a-f]{64}: nuclei overlap in \d+ pixels", text)]
    assert len(overlaps) == 2


def test_spacenet(findings: Any) -> None:
    """Tiles without a building, which are labelled all the same."""
    tasks = {"footprints": SEMANTIC, "presence": {"kind": "classification"}, "objects": {"kind": "detection"}}
    release = findings("spacenet_sample", tasks, format="spacenet", bands=1)
    assert not errors(release)
    found(release, r"warning: footprints: every labelled pixel is 'background' \(\d+ images")


def test_kvasir(findings: Any) -> None:
    """Masks whose compression made values that are no class."""
    folder = {"format": "folder", "tasks": {"polyp": "masks"}, "splits": {"val": 0.4}}
    polyp = {**SEMANTIC, "classes": ["polyp"]}
    plain = findings("kvasir_jpegmasks/Kvasir-SEG", {"polyp": polyp}, **folder)
    found(plain, r"error: .*\.jpg: label id .* outside the 2 classes")
    mended = findings("kvasir_jpegmasks/Kvasir-SEG", {"polyp": polyp | {"threshold": 128}}, **folder)
    found(mended, r"warning: polyp: the label is a JPEG, whose compression changes values; .*\(5 images")
    assert all("sizes" in text for text in errors(mended))
