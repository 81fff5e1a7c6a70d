"""The first hour of someone who has never seen segweave, with photographs and masks of their own."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segweave as sw
from segweave import MultiTaskModel, build, checkpoint, cli, create_model
from segweave.check import check
from segweave.config import dump, from_values, load
from segweave.data import Folder, Synthetic
from segweave.data.augment import Augment, to_float
from segweave.errors import CheckpointError, ConfigError, DataError, SegweaveError
from segweave.predict import find_images
from segweave.schema import check_config, read_config
from segweave.tasks import Classification, Depth, Detection, Semantic
from segweave.tasks.options import class_names

NAMES = ["IMG_0001.JPG", "Straße 2.jpg", "Feld [alt] 3.jpg", "übersicht.png", "foto.5.jpeg", "-strich.jpg"]
HEIGHT, WIDTH = 48, 64
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def segweave(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """The command line in an empty folder: exit code, what was printed, and what was complained about."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["segweave", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return int(stop.value.code or 0), said.out, said.err

    return run


def photographs(root: Path, white: int = 1) -> Path:
    """A folder as phones, cameras and file managers leave it: any case of suffix, spaces, brackets, litter."""
    drawn = np.random.default_rng(0)
    for folder in ("Bilder", "Masken"):
        (root / folder).mkdir(parents=True)
    for name in NAMES:
        mask = (drawn.random((6, 8)) > 0.5).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        picture = np.stack([90 + 90 * mask, 120 - 40 * mask, 60 + 0 * mask], 2).astype(np.uint8)
        Image.fromarray(picture).save(root / "Bilder" / name)
        Image.fromarray(mask * white).save(root / "Masken" / f"{Path(name).stem}.png")
    (root / "Bilder" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (root / "Masken" / ".DS_Store").write_bytes(b"\0")
    (root / "klassen.txt").write_bytes("Hintergrund\r\n\r\nStraße\r\n\r\n".encode("utf-8-sig"))
    return root


def values(root: str, **boden: Any) -> dict[str, Any]:
    task = {"kind": "semantic", "classes": f"{root}/klassen.txt", "source": "Masken", **boden}
    return {
        "data": {
            "format": "folder",
            "root": root,
            "images": "Bilder",
            "size": [HEIGHT, WIDTH],
            "tasks": {"Masken": "Masken"},
            "splits": {"val": 0.4},
        },
        "tasks": {"boden": task},
        "model": {"backbone": "test_resnet", "decoder": {"name": "fpn", "width": 16}},
        "train": {"steps": 2, "batch_size": 2, "workers": 0, "report": False},
    }


def test_from_own_photographs_to_predictions(segweave: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    photographs(home / "Meine Fotos")
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "boden.yaml").write_bytes(dump(values("~/Meine Fotos")).replace("\n", "\r\n").encode("utf-8-sig"))
    code, out, _ = segweave("check", "boden.yaml")
    assert code == 0
    assert "ready to train" in out
    assert "Hintergrund" in out
    code, out, err = segweave("train", "boden.yaml", f"--out={'~/runs'}")
    assert code == 0, err
    run = home / "runs" / "boden"
    assert f"run: {run}" in out.splitlines()
    code, out, err = segweave("predict", run, "~/Meine Fotos/Bilder/Feld [alt] 3.jpg", "~/Meine Fotos/Bilder/*.JPG")
    assert code == 0, err
    assert {p.stem for p in (run / "predictions" / "boden").iterdir()} == {"Feld [alt] 3", "IMG_0001"}
    code, _, err = segweave("predict", run, home / "Meine Fotos", "--out", "alle")
    assert code == 0, err
    code, out, err = segweave("score", "boden.yaml", "--predictions", "alle")
    assert code == 2
    assert "expected" in err


# The command line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian", "x.yaml"], "'train'"),
        (["check"], "Missing argument 'CONFIG'; see `segweave check --help`"),
        (["train", "x.yaml", "--epochs", "3"], "train.epochs=VALUE"),
        (["train", "x.yaml", "--nonsense"], "--nonsense"),
        (["score", "x.yaml"], "--predictions"),
        (["check", "x.yaml", "--workers", "many"], "--workers"),
    ],
)
def test_a_mistyped_command_is_one_line(segweave: Cli, arguments: list[str], says: str) -> None:
    code, out, err = segweave(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err


def test_help_and_version_are_where_they_are_looked_for(segweave: Cli) -> None:
    for asked in (["-h"], ["--help"], ["train", "-h"]):
        code, out, _ = segweave(*asked)
        assert code == 0
        assert out.startswith("Usage: segweave")
        assert not [line for line in out.splitlines()[1:] if line.endswith("...")]  # a sentence that was cut
    assert segweave("--version")[1].startswith("segweave ")


def test_piped_output_is_not_wrapped_or_read_as_markup(segweave: Cli, tmp_path: Path) -> None:
    root = photographs(tmp_path / "Fotos [blue] und ein Pfad, der schon allein laenger als achtzig Zeichen ist")
    (root / "Masken" / "Feld [alt] 3.png").write_bytes(b"")
    (tmp_path / "a.yaml").write_text(dump(values(str(root))))
    code, out, _ = segweave("check", "a.yaml")
    assert code == 1
    line = next(line for line in out.splitlines() if line.startswith("error: ") and "Feld [alt] 3.png" in line)
    assert str(root / "Masken" / "Feld [alt] 3.png") in line
    assert "an empty file" in line


def test_a_run_that_is_not_one_names_those_in_it(segweave: Cli, tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.yaml").write_text("{}")
    assert "did you mean runs/a?" in segweave("report", "runs")[2]
    assert "expected runs/b/config.yaml" in segweave("report", "runs/b")[2]
    (tmp_path / "c.yaml").write_text(dump(values("nowhere")))
    code, _, err = segweave("train", "c.yaml", "--device", "gpu")
    assert code == 2
    assert err.strip().endswith("expected cpu, cuda or cuda:N of this machine")


def test_a_wrong_label_is_one_line_and_leaves_no_bar(segweave: Cli, tmp_path: Path) -> None:
    root = photographs(tmp_path / "set")
    for name in NAMES:
        Image.fromarray(np.full((HEIGHT, WIDTH), 7, np.uint8)).save(root / "Masken" / f"{Path(name).stem}.png")
    (tmp_path / "a.yaml").write_text(dump(values(str(root))))
    code, out, err = segweave("train", "a.yaml")
    assert (code, out.strip(), err.count("\n")) == (2, "an epoch: 4 images, 2 steps", 1)
    assert "label id 7" in err
    assert not list((tmp_path / "runs").iterdir())


END = """
import torch
from segweave.data import Synthetic
from segweave.data.augment import Augment
from segweave.data.loader import Loader
from segweave.tasks import Semantic
task = Semantic("semantic", classes=8)
with torch.inference_mode():
    stream = iter(Loader(Synthetic("train", [task], size=(32, 64), count=8), {"semantic": task}, Augment((32, 64)),
                         batch_size=2, workers=1))
    next(stream)
raise RuntimeError("the end")
"""


def test_a_crash_does_not_wait_for_the_processes_that_read(tmp_path: Path) -> None:
    """They leave SIGTERM to the main process, and multiprocessing, at its end, sends them that and waits."""
    done = subprocess.run(
        [sys.executable, "-c", END], capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: the end"


# The config


def test_a_variable_alone_may_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LR", "1e-3")
    monkeypatch.setenv("ON", "true")
    monkeypatch.setenv("NAME", "a: b")
    read = from_values({"train": {"lr": "${LR}", "seed": "${SEED:-7}", "report": "${ON}", "best": "${NAME}"}}).train
    assert read == {"lr": 1e-3, "seed": 7, "report": True, "best": "a: b"}
    assert from_values({"data": {"root": "x${LR}"}}).data == {"root": "x1e-3"}


def test_a_config_that_is_none_is_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ConfigError, match=r"image\.jpg: not text; expected a YAML file"):
        load(tmp_path / "image.jpg")
    with pytest.raises(ConfigError, match=r"expected a YAML file") as error:
        load(tmp_path)
    assert "Errno" not in str(error.value)
    (tmp_path / "tabs.yaml").write_text("data:\n\tformat: folder\n")
    with pytest.raises(ConfigError, match=r"tabs\.yaml: line 2: .*indent with blanks, not with tabs"):
        load(tmp_path / "tabs.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    with pytest.raises(ConfigError, match=r"expected a mapping with the sections data, .*; found nothing"):
        load(tmp_path / "empty.yaml")
    with pytest.raises(ConfigError, match=r"override 'lr=3': expected section\.key=value"):
        from_values({}, ["lr=3"])


def test_the_home_folder_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    photographs(tmp_path / "set")
    (tmp_path / "w.safetensors").write_bytes(b"")
    config = values("~/set")
    config["model"]["pretrained"] = "~/w.safetensors"
    (tmp_path / "c.yaml").write_text(dump(config))
    read = read_config("~/c.yaml")
    assert read.data["root"] == str(tmp_path / "set")
    assert read.tasks["boden"]["classes"] == str(tmp_path / "set" / "klassen.txt")
    assert read.model["pretrained"] == str(tmp_path / "w.safetensors")
    task = Semantic("Masken", classes="~/set/klassen.txt")
    assert len(Folder("train", [task], root="~/set", images="Bilder", splits={"val": 0.2})) > 0


@pytest.mark.parametrize(
    ("augment", "expected"),
    [(False, {"scale": None, "flip": 0.0, "colour": 0.0}), (None, None), ({"flip": 0.0}, {"flip": 0.0})],
)
def test_augmentation_can_be_switched_off(augment: Any, expected: Any) -> None:
    config = values("x", classes=2)
    config["data"]["augment"] = augment
    assert check_config(from_values(config)).data["augment"] == expected


def test_augmentation_that_is_off_changes_nothing(tmp_path: Path) -> None:
    config = values(str(photographs(tmp_path / "set")))
    config["data"]["augment"] = False
    checked = check_config(from_values(config))
    tasks = build.build_tasks(checked)
    data = build.build_dataset(checked, "train", tasks)
    augment = Augment([HEIGHT, WIDTH], **checked.data["augment"])
    for index in range(len(data)):
        sample = augment(data[index], {task.name: task for task in tasks}, torch.Generator().manual_seed(index))
        assert torch.equal(sample.image, to_float(data[index].image))
        assert torch.equal(sample.annotations["boden"], data[index].annotations["boden"])


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("augment", 5, r"data\.augment: found 5; expected a mapping, false"),
        ("augment", True, r"data\.augment: found True"),
        ("size", [96], r"data\.size: found \[96\]; expected \[height, width\]"),
        ("size", [0, 64], r"data\.size: found \[0, 64\]"),
    ],
)
def test_views_are_checked_before_anything_is_read(key: str, value: Any, says: str) -> None:
    config = values("x", classes=2)
    config["data"][key] = value
    with pytest.raises(ConfigError, match=says):
        check_config(from_values(config))


@pytest.mark.parametrize("crop", [[5], [0, 5], [4, 4, 4]])
def test_a_crop_is_a_size(crop: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"data\.augment\.crop: found .*expected \[height, width\]"):
        Augment(None, crop=crop)


@pytest.mark.parametrize(("key", "value"), [("mean", [0.5]), ("std", [1.0, 1.0]), ("std", [0.2, 0.0, 0.2])])
def test_statistics_of_the_images_fit_the_bands(key: str, value: list[float]) -> None:
    task = Semantic("a", classes=2)
    with pytest.raises(ConfigError, match=rf"model\.{key}: found .*expected 3 numbers, one per band"):
        create_model([task], backbone="test_resnet", **{key: value})


# Classes and masks


def test_lists_of_classes(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("sky\r\n\r\n road \r\n\r\n".encode("utf-8-sig"))
    assert class_names("a", str(file)) == ["sky", "road"]
    assert class_names("a", [0, "b"]) == ["0", "b"]
    missing = str(tmp_path / "x.txt")
    for given, says in ((missing, "No such file"), (0, "names none"), (["a", "a"], "'a' more than once")):
        with pytest.raises(ConfigError, match=says) as error:
            class_names("a", given)
        assert "Errno" not in str(error.value)


def test_colours_by_name_or_by_id() -> None:
    colours = {"road": [1, 2, 3], 1: [4, 5, 6], "ignore": [0, 0, 0]}
    task = Semantic("a", classes=["road", "sky"], colours=colours)
    assert task.colours == {"road": [1, 2, 3], "sky": [4, 5, 6], "ignore": [0, 0, 0]}
    assert Semantic("a", classes=["1", "0"], colours={0: [9, 9, 9]}).colours == {"0": [9, 9, 9]}
    options = {"kind": "semantic", "classes": ["road", "sky"], "colours": {0: [1, 2, 3]}}
    assert check_config(from_values({"data": {"format": "synthetic"}, "tasks": {"a": options}})).tasks["a"]


@pytest.mark.parametrize(
    ("colours", "says"),
    [
        ({2: [0, 0, 0]}, r"tasks\.a\.colours\.2: not a class"),
        ({"road": [0, 0]}, r"tasks\.a\.colours\.road: found \[0, 0\]; expected \[red, green, blue\]"),
        ({"road": [0, 0, 300]}, r"each 0 to 255"),
        ({"road": [0, 0, 3], 0: [1, 1, 1]}, r"'road' has two colours"),
    ],
)
def test_colours_that_are_none(colours: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Semantic("a", classes=["road", "sky"], colours=colours)


def test_two_classes_in_0_and_255_are_pointed_out(tmp_path: Path) -> None:
    root = photographs(tmp_path / "set", white=255)
    for options, noted in (({}, True), ({"ignore": 255}, False)):
        task = Semantic("Masken", classes=["field", "road"], **options)
        data = Folder("train", [task], root=str(root), images="Bilder")
        assert data[0].annotations["Masken"].unique().tolist() == [0, 255]
        assert any("if 255 is 'road', write classes: [road] and threshold: 128" in note for note in data.notes) == noted


def test_presence_of_an_unlabelled_mask_is_not_known(tmp_path: Path) -> None:
    task = Classification("there", classes=["road", "sky"], derive="presence")
    nothing = task.encode(torch.full((4, 4), 255, dtype=torch.uint8))
    assert nothing.tolist() == [-1, -1]
    assert task.describe(nothing).labelled == 0
    loss = task.loss(torch.randn(1, 2), nothing[None])["bce"]
    assert (loss.sum.tolist(), loss.count.tolist()) == ([0.0], [0.0])
    metric = task.metric()
    metric.update({"scores": torch.tensor([[0.9, 0.1]])}, nothing[None])
    assert math.isnan(metric.compute()["accuracy"])
    for low in (-1, -2):
        np.save(tmp_path / "mask.npy", np.array([[0, low], [1, 0]], np.int16))
        with pytest.raises(DataError, match=rf"label id {low} \(1 pixels\) outside the 2 classes"):
            task.read(tmp_path / "mask.npy")


@pytest.mark.parametrize("name", ["scene", "objects", "semantic"])
def test_a_layer_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"tasks\.x\.source: layer '{name}' holds labels of kind .*expected depth"):
        Synthetic("train", [Depth("x", source=name)], count=8)


def test_presence_reads_masks_of_synthetic_data() -> None:
    task = Classification("x", classes=8, derive="presence", source="semantic")
    data = Synthetic("train", [task], size=(32, 64), count=8)
    assert set(task.encode(data[0].annotations["x"]).tolist()) == {0.0, 1.0}


def test_boxes_from_masks_without_derive_say_how(tmp_path: Path) -> None:
    task = Detection("autos", classes=["auto"], source="Masken")
    with pytest.raises(DataError, match=r"or in one file; those that are made of masks need tasks\.autos\.derive"):
        Folder("train", [task], root=str(photographs(tmp_path / "set")), images="Bilder")


# Results


def test_depth_predictions_say_their_unit_or_have_the_labels(tmp_path: Path) -> None:
    task = Depth("d", units_per_metre=256.0)
    metres = torch.full((3, 5), 2.5)
    task.write(tmp_path, "ours", {"depth": metres})
    Image.fromarray(np.full((3, 5), 640, np.uint16)).save(tmp_path / "theirs.png")  # 640 / 256 = 2.5, as KITTI has it
    np.save(tmp_path / "array.npy", np.full((3, 5), 640, np.float32))
    read = task.predictions(tmp_path)
    assert {name: reader()["depth"].unique().tolist() for name, reader in read.items()} == {
        "ours": [2.5],
        "theirs": [2.5],
        "array": [2.5],
    }
    plain = Depth("d").predictions(tmp_path)["theirs"]()
    assert plain["depth"].unique().tolist() == [pytest.approx(0.64)]


def test_weights_of_a_later_version_are_refused(tmp_path: Path) -> None:
    model = create_model([Semantic("a", classes=2)], backbone="test_resnet")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors, recipe = checkpoint.load(file)
    for change, says in (
        ({"shape_prior": 3}, "task 'a' has the unknown options shape_prior"),
        ({"kind": "panoptic"}, "unknown task kind 'panoptic'"),
        ({"loss": {"wasserstein": {"weight": 1.0}}}, "wasserstein: unknown loss"),
    ):
        checkpoint.save(file, tensors, {**recipe, "tasks": [{**recipe["tasks"][0], **change}]})
        with pytest.raises(CheckpointError, match=rf"{says}.*update segweave"):
            MultiTaskModel.from_pretrained(tmp_path)


def test_other_data_is_evaluated_beside_the_runs_own(segweave: Cli, tmp_path: Path) -> None:
    root = photographs(tmp_path / "set")
    config = values(str(root))
    config["tasks"]["there"] = {"kind": "classification", "derive": "presence", "source": "gibt", "classes": 2}
    config["data"]["tasks"] |= {"gibt": "Masken"}
    (tmp_path / "own.yaml").write_text(dump(config))
    assert segweave("train", "own.yaml")[0] == 0
    run = tmp_path / "runs" / "own"
    assert segweave("evaluate", run)[0] == 0
    before = (run / "evaluation-val.json").read_bytes()
    other = {"data": {**config["data"], "tasks": {"Masken": "Masken"}, "splits": {"val": 0.9}}}
    (tmp_path / "other.yaml").write_text(dump(other))
    code, out, err = segweave("evaluate", run, "--data", "other.yaml")
    assert code == 0, err
    assert (run / "evaluation-val.json").read_bytes() == before
    assert f"written: {run / 'evaluation-other-val.json'}" in out.splitlines()
    assert "no labels in this split" in next(line for line in out.splitlines() if " there " in line)
    other["data"]["tasks"] = {"Tiefe": "Masken"}
    (tmp_path / "other.yaml").write_text(dump(other))
    with pytest.raises(SegweaveError, match=r"data\.tasks: found Tiefe; the run's tasks read Masken, gibt"):
        build.evaluate_run(run, data=read_config(tmp_path / "other.yaml", data_only=True))


def test_brackets_in_folders_of_patterns(tmp_path: Path) -> None:
    photographs(tmp_path / "Fotos [alt]")
    found = dict(find_images([tmp_path / "Fotos [alt]" / "Bilder" / "*.jp*"]))
    assert found.keys() == {Path(name).stem for name in NAMES if ".jp" in name}
    other = dict(find_images([tmp_path / "Fotos ?alt]" / "Bilder" / "Feld*.jpg"]))
    assert other.keys() == {"Fotos [alt]/Bilder/Feld [alt] 3"}


@pytest.mark.parametrize(("orientation", "warned"), [(6, False), (3, True)])
def test_a_phones_photograph_whose_mask_is_upright(tmp_path: Path, orientation: int, warned: bool) -> None:
    """A quarter turn shows in the size: a mask of the upright size was drawn on what people see."""
    root = photographs(tmp_path / "set")
    upright = Image.open(root / "Bilder" / "IMG_0001.JPG")
    exif = Image.Exif()
    exif[274] = orientation
    turn = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}[orientation]
    upright.transpose(turn).save(root / "Bilder" / "IMG_0001.JPG", exif=exif)
    done = check(check_config(from_values(values(str(root)))), tmp_path / "page", workers=0)
    assert any("turned by its EXIF" in finding.text for finding in done.findings) == warned
    assert not done.errors


def test_the_package_says_what_is_in_it() -> None:
    assert {"create_model", "fit", "tasks", "data", "MultiTaskModel", "__version__"} <= set(dir(sw))
    assert all(hasattr(sw, name) for name in dir(sw))
    for tasks in ([], [Semantic("a", classes=2), Depth("a")]):
        with pytest.raises(ConfigError, match="expected at least one task, each with a name of its own"):
            sw.create_model(tasks, backbone="test_resnet")
