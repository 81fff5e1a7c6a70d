"""What stops a training from outside, memory that runs out and workers that are killed, in a user's words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from segweave.data.workers import killed
from segweave.errors import SegweaveError
from segweave.plan import Plan

# of torch's CPU allocator, and of the libraries that allocate on a GPU beside it
_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


@contextmanager
def explained(doing: str, plan: Plan, size: Sequence[int] | None) -> Iterator[None]:
    """Errors of torch about memory and dead workers come out as ones that name the settings to lower.

    Args:
        doing: such as "step 12".
        plan: of the training.
        size: `data.size`, height and width.

    Raises:
        SegweaveError: instead of those errors; others pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and (death := killed(error)):
            raise death from None
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _SIGNS):
            raise
        raise SegweaveError(f"{doing}: out of memory {_cure(plan, size)}") from None


def _cure(plan: Plan, size: Sequence[int] | None) -> str:
    images = f" of {size[0]} x {size[1]}" if size else ""
    found = f"with train.batch_size {plan.batch_size}{images}"
    if plan.batch_size == 1:
        return f"{found}; lower data.size, or choose a smaller model.backbone, in a new run"
    half, times = (plan.batch_size // 2, 2) if plan.batch_size % 2 == 0 else (1, plan.batch_size)
    return (
        f"{found}; lower train.batch_size, where train.batch_size={half} train.accumulate={plan.accumulate * times} "
        f"keeps the images per step and goes with --resume, or lower data.size in a new run"
    )
