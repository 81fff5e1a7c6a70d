"""What a method remembers."""

from __future__ import annotations

import torch

from segweave.balancing.memory import Memory, pair


def test_pairs_have_one_name() -> None:
    assert pair("b", "a") == pair("a", "b") == "a|b"


def test_a_mark_is_come_back_to() -> None:
    memory = Memory()
    memory.write(["a", "b"], torch.tensor([1.0, 2.0]), "w")
    memory.step = 4
    memory.mark()
    memory.write(["b", "c"], torch.tensor([5.0, 6.0]), "w")
    memory.step = 5
    memory.rollback()
    assert memory.step == 4
    assert memory.stack(["a", "b", "c"], torch.tensor(-1.0), "w").tolist() == [1.0, 2.0, -1.0]
    assert memory.names("w") == ["a", "b"]


def test_what_is_put_is_a_copy() -> None:
    memory, value = Memory(), torch.ones(2, requires_grad=True)
    memory.put("x", value)
    with torch.no_grad():
        value.zero_()
    held = memory.get("x", torch.zeros(2))
    assert held.tolist() == [1.0, 1.0]
    assert not held.requires_grad


def test_numbers_are_functions_of_seed_step_and_name() -> None:
    memory = Memory()
    first = memory.normal(0, ["a", "b", "c"])
    assert torch.equal(memory.normal(0, ["c", "a", "b"]), first[[2, 0, 1]])
    assert not torch.equal(memory.normal(1, ["a", "b", "c"]), first)
    memory.step = 1
    assert not torch.equal(memory.normal(0, ["a", "b", "c"]), first)


def test_state_goes_into_a_fresh_one_and_moves_with_it() -> None:
    memory, fresh = Memory(), Memory()
    memory.put("w/a", torch.tensor(1 / 3, dtype=torch.float64))
    memory.step = 9
    fresh.load_state_dict(memory.state_dict())
    assert fresh.step == 9
    assert torch.equal(fresh.get("w/a", torch.zeros(())), memory.get("w/a", torch.zeros(())))
    fresh.rollback()
    assert fresh.step == 9
    assert fresh.to(torch.float32).get_extra_state()["values"]["w/a"].dtype == torch.float32
