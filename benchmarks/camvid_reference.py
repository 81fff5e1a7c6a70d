"""Our multi-task network on CamVid beside a plain single-task torch + timm loop: accuracy over seeds, and step time.

    python benchmarks/camvid_reference.py                 # both parts: about 50 minutes on 2 cores
    python benchmarks/camvid_reference.py --seeds         # step time alone
    python benchmarks/camvid_reference.py --rounds 0      # accuracy alone

The plain loop is what one would write by hand: timm's encoder, a feature pyramid, `F.cross_entropy`, AdamW. It has the
encoder weights, decoder, images, augmentation, order, steps and seeds of `examples/camvid.yaml`, and only its semantic
task. Accuracy is the mIoU over the validation images, at the labels' own size, of the LAST checkpoint of each run.
Step time is that of our single-task run and of the plain loop, on the same batches, taking turns step by step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import timm
import torch
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from segweave import MultiTaskModel, build, fit, read_config
from segweave.batch import Batch
from segweave.config import Config
from segweave.data.augment import Augment, Resize
from segweave.data.loader import Loader, evaluation_batches
from segweave.experiment import Plan
from segweave.optimizers import Schedule, build_optimizer, parameter_groups

EXAMPLE = Path(__file__).parents[1] / "examples" / "camvid.yaml"


class Plain(nn.Module):
    """The same encoder and decoder by hand."""

    def __init__(self, config: Config, classes: int, width: int = 128) -> None:
        super().__init__()
        options = config.model["backbone_options"]
        self.encoder = timm.create_model(config.model["backbone"], features_only=True, **options)
        given = {key.replace(".", "_"): value for key, value in load_file(config.model["pretrained"]).items()}
        own = self.encoder.state_dict()
        found = {key: given[key.replace(".", "_")] for key in own if key.replace(".", "_") in given}
        self.encoder.load_state_dict(found, strict=False)
        levels = [
            channels
            for channels, stride in zip(
                self.encoder.feature_info.channels(), self.encoder.feature_info.reduction(), strict=True
            )
            if stride >= 4
        ]
        self.used = len(levels)
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in levels)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in levels)
        for conv in [*self.lateral, *self.output]:
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)
        self.smooth = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            for _ in levels
        )
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        images = (images - 0.5) / 0.5
        images = F.pad(images, (0, -width % 16, 0, -height % 16), mode="replicate")
        levels = self.encoder(images)[-self.used :]
        maps = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        for fine in range(len(maps) - 2, -1, -1):
            maps[fine] = maps[fine] + F.interpolate(maps[fine + 1], maps[fine].shape[-2:], mode="nearest")
        maps = [smooth(out(m)) for smooth, out, m in zip(self.smooth, self.output, maps, strict=True)]
        size = maps[0].shape[-2:]
        fused = sum(F.interpolate(m, size, mode="bilinear") if m.shape[-2:] != size else m for m in maps)
        output = F.interpolate(self.classifier(self.dropout(fused)), images.shape[-2:], mode="bilinear")
        return output[..., :height, :width]


class PlainLoop:
    """The training loop that goes with it."""

    def __init__(self, config: Config, classes: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = Plain(config, classes).train()
        self.plan = Plan(**config.train)
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        rest = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": self.plan.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.plan.lr)

    def step(self, number: int, images: Tensor, target: Tensor) -> float:
        assert self.plan.steps
        rate = self.plan.lr * (1 - number / self.plan.steps) ** 0.9 * min(1.0, (number + 1) / self.plan.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(images), target.long(), ignore_index=255)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def confusion_miou(model: nn.Module, dataset: object, size: Sequence[int], classes: int) -> float:
    """mIoU of the plain model over a data set, from one confusion matrix at the labels' own size."""
    table = torch.zeros(classes, classes, dtype=torch.int64)
    model.eval()
    with torch.inference_mode():
        for images, samples in evaluation_batches(dataset, Resize(size)):
            for output, sample in zip(model(images), samples, strict=True):
                true = torch.as_tensor(sample.annotations["semantic"]).long()
                output = F.interpolate(output[None], true.shape, mode="bilinear")
                known = true != 255
                table += torch.bincount(true[known] * classes + output.argmax(1)[0][known], minlength=classes**2).view(
                    classes, classes
                )
    hits = table.diagonal().double()
    iou = hits / (table.sum(0) + table.sum(1) - hits)
    return float(iou[table.sum(1) > 0].mean())


def training_batches(config: Config, seed: int) -> Iterator[Batch]:
    """The stream that both sides train on."""
    tasks = build.build_tasks(config)
    dataset = build.build_dataset(config, "train", tasks)
    augment = Augment(config.data["size"], **config.data["augment"])
    plan = Plan(**config.train)
    loader = Loader(dataset, {task.name: task for task in tasks}, augment, batch_size=plan.batch_size, seed=seed)
    for effective in loader:
        yield effective.micro[0]


def run_plain(seed: int, changes: Sequence[str]) -> float:
    config = read_config(EXAMPLE, changes)
    classes = len(config.tasks["semantic"]["classes"])
    single = only_semantic(config)
    loop = PlainLoop(single, classes, seed)
    for number, batch in zip(range(loop.plan.steps or 0), training_batches(single, seed), strict=False):
        loop.step(number, batch.images, batch.targets["semantic"].value)
    dataset = build.build_dataset(single, "val", build.build_tasks(single))
    return confusion_miou(loop.model, dataset, single.data["size"], classes)


def run_ours(seed: int, changes: Sequence[str]) -> dict[str, float]:
    config = read_config(EXAMPLE, [*changes, f"train.seed={seed}", "train.validate_every=1000", "train.workers=0"])
    with tempfile.TemporaryDirectory() as folder:
        run, _ = build.train(config, out=folder, quiet=True)
        model = MultiTaskModel.from_pretrained(run / "weights" / "last.safetensors")
        tasks = list(model.tasks.values())
        results = build.build_validation(config, build.build_dataset(config, "val", tasks), 0)(model)
    return {"miou": results["semantic"]["miou"], "presence_macro_f1": results["presence"]["macro_f1"]}


def only_semantic(config: Config) -> Config:
    return Config(**{**config.sections(), "tasks": {"semantic": config.tasks["semantic"]}}, source=config.source)


def step_times(rounds: int, changes: Sequence[str]) -> list[tuple[float, float]]:
    """Seconds of our step and of the plain one, by round; each of the two goes first in every other round."""
    config = only_semantic(read_config(EXAMPLE, changes))
    torch.manual_seed(0)
    stream = training_batches(config, 0)
    pool = [next(stream) for _ in range(4)]
    model = build.create_model(build.build_tasks(config), **config.model)
    plan = Plan(**config.train)
    optimizer = build_optimizer("adamw", parameter_groups(model, None, plan.lr, plan.weight_decay))
    schedule = Schedule(optimizer, plan.schedule, plan.warmup)
    turns = (pool[i % 4] for i in range(10**9))
    ours = fit(model, turns, optimizer=optimizer, schedule=schedule, progress=lambda step: step / (plan.steps or 1))
    plain = PlainLoop(config, len(config.tasks["semantic"]["classes"]), 0)

    def our_turn(_: int) -> float:
        started = time.perf_counter()
        next(ours)
        return time.perf_counter() - started

    def plain_turn(number: int) -> float:
        batch = pool[number % 4]
        started = time.perf_counter()
        plain.step(number, batch.images, batch.targets["semantic"].value)
        return time.perf_counter() - started

    times = []
    for number in range(rounds + 3):
        if number % 2:
            pair = our_turn(number), plain_turn(number)
        else:
            second, first = plain_turn(number), our_turn(number)
            pair = first, second
        times.append(pair)
    return times[3:]  # the first steps also fill caches


def accuracy(seeds: Sequence[int], jobs: int, changes: Sequence[str]) -> dict[str, list]:
    """Both sides for every seed, each run in a process of its own with one thread."""

    def one(side: str, seed: int) -> object:
        command = [sys.executable, __file__, "--run", side, "--seeds", str(seed), *changes]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"{side}, seed {seed}:\n{done.stderr}")
        result = json.loads(done.stdout.splitlines()[-1])
        print(f"seed {seed}, {side}: {result}", flush=True)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        waiting = [(pool.submit(one, "ours", seed), pool.submit(one, "plain", seed)) for seed in seeds]
        pairs = [(ours.result(), plain.result()) for ours, plain in waiting]
    return {"ours": [ours for ours, _ in pairs], "plain": [plain for _, plain in pairs]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=60, help="pairs of timed steps")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--run", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("changes", nargs="*", help="section.key=value, for both sides")
    arguments, changes = parser.parse_known_args()
    changes = [*arguments.changes, *changes]
    if arguments.run:
        torch.set_num_threads(1)
        side = {"ours": run_ours, "plain": run_plain}[arguments.run]
        print(json.dumps(side(arguments.seeds[0], changes)))
        return
    figures: dict[str, object] = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {name: version(name) for name in ("segweave", "torch", "torchvision", "timm")},
    }
    if arguments.rounds:
        torch.set_num_threads(1)
        times = step_times(arguments.rounds, changes)
        ours, plain = (statistics.median(side) for side in zip(*times, strict=True))
        ratio = statistics.median(a / b for a, b in times)
        figures["step"] = {"ours_s": ours, "plain_s": plain, "median_ratio": ratio, "rounds": arguments.rounds}
        print(f"step, median of {arguments.rounds}: ours {ours:.4f} s, plain {plain:.4f} s, ratio {ratio:.3f}")
    if arguments.seeds:
        results = accuracy(arguments.seeds, arguments.jobs, changes)
        ours = [result["miou"] for result in results["ours"]]
        below = [100 * (b - a) for a, b in zip(ours, results["plain"], strict=True)]
        mean = statistics.mean(below)
        figures["accuracy"] = {**results, "points_below": below, "mean_points_below": mean}
        line = f"mIoU: ours {statistics.mean(ours):.4f}, plain {statistics.mean(results['plain']):.4f}"
        line += f"; ours is below by {mean:.2f} points on average over {len(below)} seeds"
        if len(below) > 1:
            spread = statistics.stdev(below) / math.sqrt(len(below))
            upper = mean + float(stats.t.ppf(0.975, len(below) - 1)) * spread
            figures["accuracy"]["upper_95"] = upper
            line += f" (two-sided 95 % interval up to {upper:.2f})"
        print(line)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
