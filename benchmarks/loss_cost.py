"""What each loss costs: forward and backward of one batch beside cross-entropy, in rounds that take turns.

    python benchmarks/loss_cost.py [rounds]

Prints milliseconds (median) and the ratio to `cross_entropy` or `l1`. docs/losses.md quotes the ratios.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from segweave.losses import LOSSES

IMAGES, CLASSES, HEIGHT, WIDTH = 4, 19, 256, 512
SEMANTIC = {
    "cross_entropy": {},
    "cross_entropy with ohem": {"ohem": 0.25},
    "focal": {},
    "bce": {},
    "iou": {},
    "dice": {},
    "tversky": {},
    "lovasz": {},
    "boundary": {},
}
DEPTH = {"l1": {}, "berhu": {}, "silog": {}, "gradient_matching": {}}


def measure(criteria: dict[str, torch.nn.Module], outputs: torch.Tensor, target: torch.Tensor, rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in criteria}
    for turn in range(rounds + 1):
        for name, criterion in criteria.items():
            leaf = outputs.clone().requires_grad_()
            start = time.perf_counter()
            criterion(leaf, target).sum().backward()
            if turn:  # the first round warms up
                times[name].append(1000 * (time.perf_counter() - start))
    first = statistics.median(next(iter(times.values())))
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{name:24} {median:8.1f} ms  {median / first:5.2f}")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    torch.manual_seed(0)
    torch.set_num_threads(1)
    # blocks of 32 pixels, as masks have regions and not noise
    coarse = torch.randint(0, CLASSES, (IMAGES, HEIGHT // 32, WIDTH // 32))
    target = coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)
    made = {name: LOSSES.load(name.split()[0])(255, **options) for name, options in SEMANTIC.items()}
    print(f"torch {torch.__version__}, one thread, {IMAGES} images of {HEIGHT}x{WIDTH}, {CLASSES} classes")
    measure(made, torch.randn(IMAGES, CLASSES, HEIGHT, WIDTH), target, rounds)
    metres = torch.rand(IMAGES, HEIGHT, WIDTH) * 60 + 1
    measure({name: LOSSES.load(name)(**options) for name, options in DEPTH.items()}, metres.flip(0), metres, rounds)


if __name__ == "__main__":
    main()
