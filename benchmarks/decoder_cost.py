"""Parameters and multiply-adds of every decoder on the levels of a ResNet-50, which docs/networks.md quotes.

    python benchmarks/decoder_cost.py

Both follow from shapes alone: they are the same on every machine.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from segweave.backbones import Encoder
from segweave.decoders import DECODERS

HEIGHT, WIDTH = 256, 512


def costs() -> dict[str, tuple[float, float]]:
    """Millions of parameters and billions of multiply-adds by decoder, and of the encoder under its name."""
    encoder = Encoder("resnet50").eval()
    found = {}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        levels = encoder(torch.zeros(1, 3, HEIGHT, WIDTH))
    found["resnet50"] = _millions(encoder), counter.get_total_flops() / 2e9
    for name in DECODERS:
        decoder = DECODERS.load(name)(encoder.channels, encoder.strides).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            decoder(levels)
        found[name] = _millions(decoder), counter.get_total_flops() / 2e9
    return found


def _millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


if __name__ == "__main__":
    for name, (parameters, operations) in costs().items():
        print(f"{name:14} {parameters:6.2f} M {operations:6.2f} G")
