"""What a network costs, of its parts and against one network per task: parameters, MACs, latency and memory."""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segweave.errors import ConfigError
from segweave.model import MultiTaskModel, create_model
from segweave.peak import Peak, held

_WARM_UP = 3
"""Untimed rounds: kernels are chosen, workspaces and caches made in the first ones."""


@dataclass(frozen=True)
class _Work:
    """Something to be measured: the module whose weights it needs, and what to run."""

    module: nn.Module
    run: Callable[[], Any]


def cost_table(model: MultiTaskModel, height: int, width: int, *, repeats: int = 10) -> dict[str, Any]:
    """What one image costs the shared network, each of its parts, and a separate network of the same make per task.

    Measured are copies in eval mode, not compiled, where the network is (its device, its number type) and with as many
    threads as torch has at the moment; the network itself is not run. A separate network is made anew by the same
    recipe with a copy of the encoder; nothing is loaded. Raw outputs only: decoding (argmax, non-maximum suppression)
    is left out.

    - `parameters`: numbers in the weights, frozen ones too.
    - `macs`: multiply-accumulates of convolutions, matrix products and attention, from their shapes (half the FLOPs of
      `torch.utils.flop_counter`); all else counts 0: norms, activations, interpolation, and operators unknown to torch
      such as deformable convolution.
    - `milliseconds`: median of `repeats` runs after a warm-up, waiting for the device each time. All that is measured
      takes turns, so that a change of the machine's pace falls on everything and the ratios stay fair.
    - `peak_megabytes`: weights and buffers, and the most that all tensors made while running hold at once, the outputs
      included and the input not, in 10^6 bytes. On CUDA as the allocator counts it (its peak statistics start anew),
      with the libraries' workspaces; elsewhere the exact sum of live tensors after each operator, without scratch
      memory inside an operator.

    Each part runs by itself on the inputs it had in one pass of the whole. What the processor's caches hold is then not
    what they hold inside the whole, so latencies need not add up to the whole's, and peaks do not; parameters and MACs
    do. The parts are the `encoder`, the `decoder` (all that stands between it and the heads, decoders of single tasks
    too) and each `head <task>`.

    Args:
        height, width: of the image, in pixels.
        repeats: timed runs of everything.

    Returns:
        A JSON-ready table: `size`, `device`, `threads`, `batch`; `parts`, a list with `part` and the four numbers;
        `shared`, the four of the whole network; `separate`, the four by task; and `separate_sum`: sums over the tasks,
        except that `peak_megabytes` is measured on all separate networks loaded at once and run one after the other,
        which is what one process needs to answer every task.

    Raises:
        ConfigError: a size or number of runs below 1, or a network without a recipe (not from `create_model`).
    """
    for name, value in (("height", height), ("width", width), ("repeats", repeats)):
        if value < 1:
            raise ConfigError(f"cost_table: {name}: found {value}; expected at least 1")
    if not model.spec:
        raise ConfigError("cost_table: this network has no `spec` to make separate ones by; make it with create_model")
    device = model.mean.device
    # making networks draws initial weights
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        network = copy.deepcopy(model).eval()
        apart = {name: _separate(network, name) for name in network.tasks}
        images = torch.rand(1, network.mean.shape[1], height, width, generator=torch.Generator().manual_seed(0))
        images = images.to(network.mean)
        parts = _parts(network, images)
        works = [*parts.values(), *(_whole(one, images) for one in (network, *apart.values()))]
        times = _milliseconds([work.run for work in works], repeats, device)
        rows = [_row(work, taken, device) for work, taken in zip(works, times, strict=True)]
        together = _Work(nn.ModuleList(apart.values()), lambda: [one(images) for one in apart.values()])
        peak = _peak(together, device)
    shared, *separate = rows[len(parts) :]
    summed = {key: sum(row[key] for row in separate) for key in ("parameters", "macs", "milliseconds")}
    return {
        "size": [height, width],
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "batch": 1,
        "parts": [{"part": part} | row for part, row in zip(parts, rows, strict=False)],
        "shared": shared,
        "separate": dict(zip(apart, separate, strict=True)),
        "separate_sum": {**summed, "peak_megabytes": peak / 1e6},
    }


def _separate(network: MultiTaskModel, name: str) -> MultiTaskModel:
    """A network for one of the tasks alone, by the recipe of the shared one."""
    recipe = {key: value for key, value in network.spec.items() if key != "backbone"}
    task, encoder = copy.deepcopy(network.tasks[name]), copy.deepcopy(network.encoder)
    return create_model([task], encoder, **{**recipe, "pretrained": False}).to(network.mean).eval()


def _whole(network: MultiTaskModel, images: Tensor) -> _Work:
    return _Work(network, lambda: network(images))


def _parts(network: MultiTaskModel, images: Tensor) -> dict[str, _Work]:
    """Each part, to be run on the arguments it gets in a pass of the whole network."""
    modules = {"encoder": network.encoder, "decoder": network.interaction}
    modules |= {f"head {name}": head for name, head in network.heads.items()}
    calls: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {part: [] for part in modules}

    def recorder(part: str) -> Callable[..., None]:
        return lambda _, args, kwargs: calls[part].append((args, kwargs))

    hooks = [m.register_forward_pre_hook(recorder(part), with_kwargs=True) for part, m in modules.items()]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()

    def replay(part: str) -> Callable[[], list[Any]]:
        return lambda: [modules[part](*args, **kwargs) for args, kwargs in calls[part]]

    return {part: _Work(module, replay(part)) for part, module in modules.items()}


def _row(work: _Work, milliseconds: float, device: torch.device) -> dict[str, Any]:
    return {
        "parameters": sum(p.numel() for p in work.module.parameters()),
        "macs": _macs(work.run),
        "milliseconds": milliseconds,
        "peak_megabytes": _peak(work, device) / 1e6,
    }


def _milliseconds(runs: Sequence[Callable[[], Any]], repeats: int, device: torch.device) -> list[float]:
    """The median time of each, all of them taking turns."""
    taken: list[list[float]] = [[] for _ in runs]
    with torch.inference_mode():
        for repeat in range(_WARM_UP + repeats):
            for run, times in zip(runs, taken, strict=True):
                _wait(device)
                started = time.perf_counter()
                run()
                _wait(device)
                if repeat >= _WARM_UP:
                    times.append(1000 * (time.perf_counter() - started))
    return [statistics.median(times) for times in taken]


def _wait(device: torch.device) -> None:
    """Until everything that was asked of an accelerator is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _macs(run: Callable[[], Any]) -> int:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operator has no formula and would count 0
    try:
        # not inference mode, in which composite operators reach the counter undivided
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


def _peak(work: _Work, device: torch.device) -> int:
    """Bytes of the weights and buffers, and the most that the tensors made by a run hold at once."""
    with torch.no_grad(), Peak(device) as peak:
        work.run()
    return peak.bytes + held(work.module)


def device_name(device: torch.device) -> str:
    """The model of the processor or graphics card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine() or "CPU"
