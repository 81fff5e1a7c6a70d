"""YAML 1.2 with overrides and variables, checked values and the words for what was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segweave.catalogue import check, describe, signature_options
from segweave.config import SECTIONS, Config, dump, from_values, load, parse
from segweave.errors import ConfigError, nearest
from segweave.losses import LOSSES
from tiny import tiny

# YAML 1.2 core schema, section 10.3.2 of the specification, against what YAML 1.1 would make of it.
SCALARS = {
    "1e-3": 0.001,
    "1.5e3": 1500.0,
    "1E+2": 100.0,
    ".5": 0.5,
    "2.": 2.0,
    "+3": 3,
    "-0": 0,
    "007": 7,
    "0o17": 15,
    "0x1F": 31,
    ".inf": math.inf,
    "-.INF": -math.inf,
    "+.Inf": math.inf,
    "true": True,
    "False": False,
    "null": None,
    "~": None,
    "": None,
    "yes": "yes",
    "on": "on",
    "off": "off",
    "y": "y",
    "1:30": "1:30",
    "1_000": "1_000",
    "0b11": "0b11",
    "2026-11-25": "2026-11-25",
    "=": "=",
    "1e": "1e",
    "e5": "e5",
    "1.2.3": "1.2.3",
    "nan": "nan",
    "'1e-3'": "1e-3",
    '"true"': "true",
}


@pytest.mark.parametrize("text", SCALARS)
def test_scalars_are_those_of_yaml_1_2(text: str) -> None:
    value, expected = parse(f"key: {text}")["key"], SCALARS[text]
    assert value == expected
    assert type(value) is type(expected)


def test_nan_and_nested_values() -> None:
    assert math.isnan(parse("k: .NaN")["k"])
    assert parse("a: {b: [1, x, {c: null}]}") == {"a": {"b": [1, "x", {"c": None}]}}
    assert parse("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}
    assert parse("") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"c.yaml: line 3: key 'a' is written twice"),
        ("x:\n  - {k: 1, 'k': 2}", r"line 2: key 'k' is written twice"),
        ("{1: a, 1: b}", r"key 1 is written twice"),
        ("? [1, 2]\n: x", r"line 1: a key must be plain text"),
        ("a: &a [*a]", r"alias"),
        ("a: *b", r"line 1: .*undefined alias"),
        ("a: !!python/name:os.system", r"line 1: could not determine a constructor .*python/name"),
        ("a: !thing 3", r"line 1: could not determine a constructor"),
        ("a: b: c", r"line 1: mapping values are not allowed"),
        ("a: [1", r"line 1: expected"),
        ("a\t: 'x", r"line 1: "),
        ("a: 1\n--- \nb: 2", r"line 2: .*document"),
        ("a: " + "9" * 5000, r"not YAML that can be read"),
        ("a: \x07", r"not YAML that can be read"),
        ("[" * 5000, r"not YAML that can be read|line 1"),
    ],
)
def test_bad_yaml_says_where(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse(text, "c.yaml")
    assert str(error.value).startswith("c.yaml: ")
    assert "\n" not in str(error.value)


def test_alias_bomb_is_refused_before_it_grows() -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 40))
    with pytest.raises(ConfigError, match="aliases expand to more than 100000 values"):
        parse("l0: &l0 [x]\n" + levels)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
    | st.sampled_from([text for text in SCALARS if not text.startswith(("'", '"'))]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(list(SCALARS)), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1, max_size=8), PLAIN, max_size=4))
@settings(max_examples=150, deadline=None)
def test_what_is_dumped_is_parsed_to_the_same_values_in_order(values: dict[str, Any]) -> None:
    again = parse(dump(values)) or {}
    assert again == values
    assert list(again) == list(values)
    assert repr(again) == repr(values), "also 1 against 1.0 and True"


def test_sections_overrides_and_their_order(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "tasks: {b: {kind: depth}, a: {kind: semantic}}\ntrain: {epochs: 3, lr: 1}\nmodel:\n", encoding="utf-8"
    )
    config = load(
        path, ["train.lr=1e-3", "tasks.a.loss={iou: 2}", "data.root=x=y", "train.steps=5", "model.decoder.width=8"]
    )
    assert list(config.tasks) == ["b", "a"]
    assert config.tasks["a"] == {"kind": "semantic", "loss": {"iou": 2}}
    assert config.train == {"lr": 0.001, "steps": 5}, "one limit replaces another"
    assert config.data == {"root": "x=y"}
    assert config.model == {"decoder": {"width": 8}}
    assert config.source == str(path)
    assert tuple(config.sections()) == SECTIONS


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        ({}, ["train.lr"], r"override 'train.lr': expected section.key=value"),
        ({}, ["=1"], r"expected section.key=value"),
        ({}, ["train..lr=1"], r"expected section.key=value"),
        ({"train": {"lr": 1}}, ["train.lr.x=1"], r"override 'train.lr.x=1': train.lr is 1, not a section"),
        ({}, ["train.lr=[1"], r"override 'train.lr=\[1': line 1"),
        ({"trian": {}}, [], r"c.yaml: trian: unknown section; did you mean 'train'\?"),
        ({}, ["bananas=1"], r"override 'bananas=1': expected section.key=value"),
        ({"train": 3}, [], r"c.yaml: train: expected a mapping; found 3"),
        ([], [], r"c.yaml: expected a mapping with the sections data, tasks, model, balancing, train; found \[\]"),
        ({3: {}}, [], r"3: unknown section"),
    ],
)
def test_bad_sections_and_overrides(values: Any, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_values(values, overrides, "c.yaml")


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGWEAVE_TEST", "/data")
    monkeypatch.setenv("SEGWEAVE_EMPTY", "")
    monkeypatch.delenv("SEGWEAVE_NONE", raising=False)
    values = {
        "data": {"root": "${SEGWEAVE_TEST}/a", "list": ["${SEGWEAVE_NONE:-b}/c", "$HOME", "${SEGWEAVE_EMPTY:-d}", 3]}
    }
    config = from_values(values)
    assert config.data == {"root": "/data/a", "list": ["b/c", "$HOME", "d", 3]}
    assert from_values({"data": {"x": "${SEGWEAVE_EMPTY}|${SEGWEAVE_NONE:-}"}}).data == {"x": "|"}
    with pytest.raises(
        ConfigError, match=r"c.yaml: \$\{SEGWEAVE_NONE\}: environment variable SEGWEAVE_NONE is not set"
    ):
        from_values({"data": {"root": "${SEGWEAVE_NONE}"}}, source="c.yaml")


def test_defaults_are_empty_sections() -> None:
    assert from_values({"data": None}) == Config()


# Checked values

OPTIONS: dict[str, tuple[Any, Any]] = {
    "steps": (int | None, None),
    "lr": (float, 1.0),
    "mode": (Literal["fp32", "bf16"], "fp32"),
    "size": (list[int] | None, None),
    "names": (int | Sequence[str] | str | None, None),
    "weights": (Mapping[str, float] | None, None),
    "flag": (bool, False),
    "root": (str, ...),
}


def test_only_written_keys_are_kept_and_whole_numbers_are_numbers() -> None:
    checked = check({"root": "x", "lr": 1, "size": [3, 4], "weights": {"a": 1}}, OPTIONS, "s")
    assert checked == {"root": "x", "lr": 1.0, "size": [3, 4], "weights": {"a": 1.0}}
    assert list(checked) == ["root", "lr", "size", "weights"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"^s.root: missing; expected text$"),
        ({"root": 3}, r"^s.root: found 3; expected text$"),
        ({"root": "", "steps": True}, r"^s.steps: found True; expected a whole number or null$"),
        ({"root": "", "steps": 1.0}, r"^s.steps: found 1.0; expected a whole number or null$"),
        ({"root": "", "lr": "1"}, r"^s.lr: found '1'; expected a number$"),
        ({"root": "", "lr": None}, r"^s.lr: found None; expected a number$"),
        ({"root": "", "mode": "fp8"}, r"^s.mode: found 'fp8'; expected one of 'fp32', 'bf16'$"),
        ({"root": "", "size": [1, "x"]}, r"^s.size.1: found 'x'; expected a list of whole numbers or null$"),
        ({"root": "", "flag": 1}, r"^s.flag: found 1; expected true or false$"),
        ({"root": "", "weights": [1]}, r"^s.weights: found \[1\]; expected a mapping of names to a number or null$"),
        (
            {"root": "", "names": 1.5},
            r"^s.names: found 1.5; expected a whole number or a list of text or text or null$",
        ),
        ({"root": "", "stepps": 1}, r"^s.stepps: unknown key; did you mean 'steps'\?$"),
        ({"root": "", "_target_": "x"}, r"^s._target_: refused"),
        ({"root": "", 3: 1}, r"^s.3: unknown key"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(values, OPTIONS, "s")


def test_every_option_of_every_table_has_words() -> None:
    from segweave.balancing import METHODS
    from segweave.data import FORMATS
    from segweave.decoders import DECODERS
    from segweave.interactions import INTERACTIONS
    from segweave.regularizers import REGULARIZERS
    from segweave.tasks import TASKS

    tables = (TASKS, METHODS, FORMATS, DECODERS, INTERACTIONS, LOSSES, REGULARIZERS)
    options = [table.options(name) for table in tables for name in table]
    options += [signature_options("segweave.plan:Plan")[0], signature_options("segweave.data.augment:Augment")[0]]
    for annotation, _ in (option for section in options for option in section.values()):
        words = describe(annotation)
        assert not any(mark in words for mark in ("typing", "<", "[", "collections")), words


def test_nearest_names() -> None:
    assert nearest("resnet5O", ["resnet50", "vgg16"]) == "'resnet50'"
    assert nearest("x", []) == ""
    assert nearest("uncertanty", ["equal", "uncertainty", "famo", "gls"], 3).startswith("'uncertainty', ")
    assert nearest("uncertanty", ["equal", "uncertainty", "famo", "gls"], 3).count(", ") == 2
    with pytest.raises(ConfigError, match=r"^tasks.a.loss: unknown loss 'dise'; nearest: 'dice'"):
        LOSSES.require("dise", "tasks.a.loss")
    assert set(LOSSES) == {name for name in LOSSES if LOSSES[name]}
    with pytest.raises(AttributeError, match="has no attribute 'Dise'"):
        LOSSES.attribute("Dise")


def test_an_override_of_one_alias_leaves_the_other(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("tasks: {a: &x {kind: depth}, b: *x}")
    tasks = load(path, ["tasks.a.weight=5"]).tasks
    assert (tasks["a"].get("weight"), tasks["b"].get("weight")) == (5, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "crossentropy"}, r"^tasks\.semantic\.loss: unknown loss 'crossentropy'; nearest: 'cross_entropy'"),
        ({"loss": ["iou", "dise"]}, r"^tasks\.semantic\.loss: unknown loss 'dise'; nearest: 'dice'"),
        ({"loss": {"focal": {"gama": 2}}}, r"^tasks\.semantic\.loss\.focal\.gama: unknown key; did you mean 'gamma'"),
        ({"loss": {"focal": {"gamma": "2"}}}, r"^tasks\.semantic\.loss\.focal\.gamma: found '2'; expected a number"),
        ({"regularizers": {"smoothnes": 1}}, r"^tasks\.semantic\.regularizers: unknown .*nearest: 'smoothness'"),
        ({"regularizers": {"smoothness": -1}}, r"^tasks\.semantic\.regularizers\.smoothness: found -1"),
    ],
)
def test_losses_and_regularisers_are_checked_before_torch(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(tasks={"semantic": {"kind": "semantic", **options}})


def test_betas_of_the_shared_part_are_checked_before_torch() -> None:
    with pytest.raises(ConfigError, match=r"^model\.regularizers\.feature_norm: found -1.*; expected a number of 0 or"):
        tiny(model={"regularizers": {"feature_norm": -1}})
    assert tiny(tasks={"semantic": {"kind": "semantic", "loss": {"focal": {"gamma": 2}, "dice": 1}}}).tasks
