"""One training step in many ways, on one network: the worker of `balancing.py`, in segweave's environment or LibMTL's.

It needs torch, torchvision and timm, and then what the arms it is asked for need.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from workers import serve

KINDS = {"segment": 13, "depth": 1, "normal": 3}
"""The tasks of NYUv2 in the field's benchmarks, with the channels of their outputs."""


@dataclass(frozen=True)
class Cell:
    """What is trained.

    Args:
        encoder: dilated, from timm; its last map has a stride of 8.
        heads: `aspp`: DeepLab's, at the images' size; `light`: one 1 x 1 convolution, at the map's.
        tasks: how many.
        batch, height, width: of the images.
    """

    encoder: str
    heads: str
    tasks: int
    batch: int
    height: int
    width: int


class Net(nn.Module):
    """The encoder and a head per task, on random images and labels."""

    def __init__(self, cell: Cell, device: torch.device) -> None:
        super().__init__()
        self.cell = cell
        self.encoder = Encoder(cell.encoder)
        self.kinds = {f"{kind}{i}": kind for i, kind in zip(range(cell.tasks), 6 * list(KINDS), strict=False)}
        width = self.encoder.channels
        head = {"aspp": DeepLabHead, "light": lambda width, channels: nn.Conv2d(width, channels, 1)}[cell.heads]
        self.heads = nn.ModuleDict({name: head(width, KINDS[kind]) for name, kind in self.kinds.items()})
        self.to(device)
        self.images = torch.rand(cell.batch, 3, cell.height, cell.width, device=device)
        size = (cell.height, cell.width) if cell.heads == "aspp" else (cell.height // 8, cell.width // 8)
        self.size = size
        self.targets = {
            "segment": torch.randint(0, KINDS["segment"], (cell.batch, *size), device=device),
            "depth": torch.rand(cell.batch, 1, *size, device=device),
            "normal": F.normalize(torch.randn(cell.batch, 3, *size, device=device), dim=1),
        }

    def loss(self, name: str, features: Tensor) -> Tensor:
        return self.criterion(name, self.heads[name](features))

    def criterion(self, name: str, output: Tensor) -> Tensor:
        output = F.interpolate(output.float(), self.size, mode="bilinear")
        target = self.targets[self.kinds[name]]
        if self.kinds[name] == "segment":
            return F.cross_entropy(output, target)
        if self.kinds[name] == "depth":
            return F.l1_loss(output, target)
        return 1 - F.cosine_similarity(output, target).mean()

    def losses(self) -> tuple[Tensor, list[Tensor]]:
        """The features that the heads read, and the loss of each task."""
        features = self.encoder(self.images)
        return features, [self.loss(name, features) for name in self.kinds]


class Encoder(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True, output_stride=8, out_indices=(4,))
        self.channels = self.body.feature_info.channels()[0]

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)[0]


Step = Callable[[], None]


class Arms:
    """The ways to take a step. The network and its optimizer are the same for all, in turn."""

    def __init__(self, cell: Cell, device: torch.device, *, bf16: bool = False) -> None:
        torch.manual_seed(0)
        self.net = Net(cell, device)
        self.device = device
        self.bf16 = bf16
        if bf16:
            self.net.to(memory_format=torch.channels_last)
            self.net.images = self.net.images.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-4)

    def make(self, arm: str) -> Step:
        """`floor`, `segweave/METHOD/SPACE`, `torchjd/METHOD` or `libmtl/METHOD`."""
        side, _, rest = arm.partition("/")
        return {"floor": self._floor, "segweave": self._segweave, "torchjd": self._torchjd, "libmtl": self._libmtl}[
            side
        ](*rest.split("/"))

    def _forward(self) -> tuple[Tensor, list[Tensor]]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.net.losses()

    def _floor(self, _: str) -> Step:
        def step() -> None:
            self.optimizer.zero_grad()
            sum(self._forward()[1]).backward()
            self.optimizer.step()

        return step

    def _segweave(self, method: str, space: str) -> Step:
        from segweave.balancing import METHODS
        from segweave.balancing.balancer import Objective

        exact = {"famo (next-step loss)": {"exact": False}}
        options = exact.get(method, {}) | ({"space": space} if space != "losses" else {})
        tasks = tuple(self.net.kinds)
        balancer = METHODS.load(method.partition(" ")[0])(tasks, 0, **options).to(self.device)
        learned = list(balancer.parameters())
        own = torch.optim.Adam(learned, lr=1e-4) if learned else None
        shared = list(self.net.encoder.parameters())
        private = {name: list(head.parameters()) for name, head in self.net.heads.items()}
        every = torch.arange(self.net.cell.batch)
        rows = dict.fromkeys(tasks, every)
        closing = list(self.net.encoder.body.layer4[-1].conv2.parameters())
        nothing = torch.zeros((), device=self.device)

        def again() -> Tensor:
            with torch.no_grad():
                return torch.stack(self._forward()[1])

        def step() -> None:
            self.optimizer.zero_grad()
            if own:
                own.zero_grad()
            features, losses = self._forward()
            objective = Objective(
                tasks,
                torch.stack(losses),
                nothing,
                [features],
                shared,
                private,
                rows=rows,
                closing=closing,
                each=losses,
            )
            balancer.backward(objective)
            self.optimizer.step()
            if own:
                own.step()
            balancer.after(tasks, again)

        return step

    def _torchjd(self, method: str) -> Step:
        from torchjd import aggregation, autojac

        # one row after the other is the faster way on a CPU, all at once on a GPU
        chunk = 1 if self.device.type == "cpu" else None
        from segweave.balancing.dual_cone import NonNegativeProjector

        class Projector(NonNegativeProjector):
            """In the place of torchjd's own, which is quadprog, under the GPL."""

            def __call__(self, U: Tensor, G: Tensor) -> Tensor:
                weights = super().__call__(U.cpu().double(), G.cpu().double())
                return weights.to(G)

        options = {"CAGrad": {"c": 0.4}, "UPGrad": {"projector": Projector(1e-6)}}
        aggregator = getattr(aggregation, method)(**options.get(method, {}))
        shared = list(self.net.encoder.parameters())

        def step() -> None:
            self.optimizer.zero_grad()
            features, losses = self._forward()
            autojac.mtl_backward(losses, features=features, shared_params=shared, parallel_chunk_size=chunk)
            autojac.jac_to_grad(shared, aggregator)
            self.optimizer.step()

        return step

    def _libmtl(self, method: str) -> Step:
        # LibMTL 1.1.5 imports it from where torchvision had it until 2021
        moved = types.ModuleType("torchvision.models.utils")
        moved.load_state_dict_from_url = torch.hub.load_state_dict_from_url
        sys.modules.setdefault(moved.__name__, moved)
        from LibMTL import weighting
        from LibMTL.architecture import HPS

        name, _, representation = method.partition(" ")
        arguments = {"DWA": {"T": 2.0}, "CAGrad": {"calpha": 0.4, "rescale": 1}, "GradVac": {"beta": 0.5}}
        arguments |= {"GradNorm": {"alpha": 1.5}, "MGDA": {"mgda_gn": "none"}, "GradDrop": {"leak": 0.0}}
        arguments |= {"RLW": {"dist": "Normal"}}

        class Model(HPS, getattr(weighting, name)):
            def __init__(self, net: Net, device: torch.device) -> None:
                super().__init__(list(net.kinds), lambda: net.encoder, net.heads, bool(representation), False, device)
                self.init_param()

            def zero_grad_share_params(self) -> None:
                # as torch did when it was written: gradients of 0, which it writes into, and not None
                self.encoder.zero_grad(set_to_none=False)

        model = Model(self.net, self.device)
        model.epoch, model.train_loss_buffer = 2, torch.ones(len(self.net.kinds), 3).numpy()

        def step() -> None:
            outputs = model(self.net.images)
            # as its Trainer collects them
            losses = torch.zeros(len(outputs), device=self.device)
            for place, task in enumerate(model.task_name):
                losses[place] = self.net.criterion(task, outputs[task])
            self.optimizer.zero_grad()
            model.backward(losses, **arguments.get(name, {}))
            self.optimizer.step()

        return step


def peak_resident() -> float:
    """Megabytes of this process at the peak."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) / 1e3


class Worker:
    """Answers requests: `build` a cell, `step` of an arm, or the peak `memory` of its next steps."""

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.cells: dict[bool, Arms] = {}
        self.made: dict[tuple[str, bool], Step] = {}

    def build(self, cell: Mapping[str, Any], bf16: Sequence[bool]) -> dict:
        self.made.clear()
        self.cells = {precision: Arms(Cell(**cell), self.device, bf16=precision) for precision in bf16}
        return {}

    def _step(self, arm: str, bf16: bool) -> Step:
        if (arm, bf16) not in self.made:
            self.made[arm, bf16] = self.cells[bf16].make(arm)
            random.seed(0)
            self.made[arm, bf16]()  # warms up
        return self.made[arm, bf16]

    def step(self, arm: str, bf16: bool) -> dict:
        """Seconds of one step; on a GPU between two of its events."""
        step = self._step(arm, bf16)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            step()
            end.record()
            torch.cuda.synchronize()
            return {"seconds": start.elapsed_time(end) / 1000}
        start = time.perf_counter()
        step()
        return {"seconds": time.perf_counter() - start}

    def memory(self, arm: str, bf16: bool) -> dict:
        """Megabytes at the peak of three steps, of the process or the GPU's allocator."""
        step = self._step(arm, bf16)
        gc.collect()
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        for _ in range(3):
            step()
        peak = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else peak_resident()
        return {"megabytes": peak}

    def copies(self, arm: str, bf16: bool) -> dict:
        """Copies from the GPU to the host in one step."""
        from torch.profiler import ProfilerActivity, profile

        step = self._step(arm, bf16)
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            step()
            torch.cuda.synchronize()
        return {"copies": sum("DtoH" in event.name for event in found.events())}

    def facts(self) -> dict:
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        bf16 = self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        return {"device": name, "bf16": bf16, "torch": torch.__version__, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    serve(Worker)
