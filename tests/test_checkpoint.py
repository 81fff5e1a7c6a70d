"""Files that are written whole or not at all, and read back exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from segweave import checkpoint
from segweave.errors import CheckpointError


def test_nested_state_comes_back(tmp_path: Path) -> None:
    state = {"a": torch.arange(3), 1: [1.5, None, {"b": torch.ones(2, 2, dtype=torch.bfloat16)}], "c": ("x", True)}
    tensors: dict[str, torch.Tensor] = {}
    held = checkpoint.flatten(state, "state", tensors)
    checkpoint.save(tmp_path / "deep" / "file.safetensors", tensors, {"held": held, "step": 3})
    loaded, meta = checkpoint.load(tmp_path / "deep" / "file.safetensors")
    again = checkpoint.restore(meta["held"], loaded)
    assert meta["step"] == 3
    assert torch.equal(again["a"], state["a"])
    assert torch.equal(again[1][2]["b"], torch.ones(2, 2, dtype=torch.bfloat16))
    assert again[1][:2] == [1.5, None]
    assert again["c"] == ["x", True]


def test_tensors_that_share_memory_are_kept_apart(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    checkpoint.save(tmp_path / "f.safetensors", {"a": whole, "b": whole, "c": whole[2:4]}, {})
    loaded, _ = checkpoint.load(tmp_path / "f.safetensors")
    assert torch.equal(loaded["b"], whole)
    assert torch.equal(loaded["c"], whole[2:4])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.safetensors"
    checkpoint.save(path, {"a": torch.zeros(2)}, {})

    def full(_: Any, target: Path, *__: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"f\.safetensors: cannot be written: .*No space left"):
        checkpoint.save(path, {"a": torch.ones(2)}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["f.safetensors"]
    assert torch.equal(checkpoint.load(path)[0]["a"], torch.zeros(2))


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "empty"])
def test_damage_is_noticed(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    checkpoint.save(path, {"a": torch.arange(100.0)}, {})
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-10] ^= 1
    path.write_bytes({"cut": data[:-9], "empty": b""}.get(damage, data))
    if damage == "missing":
        path.unlink()
    with pytest.raises(CheckpointError, match=r"f\.safetensors: (not a safetensors|no such file|its contents do not)"):
        checkpoint.load(path)
