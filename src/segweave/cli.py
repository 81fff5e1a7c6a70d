"""The verbs: parse, call one function, print."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

# Two spinning OpenMP threads beside another busy process are many times slower; must stand before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

from segweave.errors import ConfigError, SegweaveError

app = typer.Typer(
    help="One network, one shared encoder, several vision tasks.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_verbs = typer.Typer(help="Bring data into another layout, or into splits.", rich_markup_mode=None)
app.add_typer(data_verbs, name="data")
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # click's, of which typer has a copy in some versions

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="run folder")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; by default cuda where there is one")]
Split = Annotated[str, typer.Option(help="train, val, test or a split of the config")]


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"segweave {metadata.version('segweave')}")
        raise typer.Exit
    return wanted


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """One network, one shared encoder, several vision tasks."""


@app.command()
def train(
    config: ConfigPath,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
    name: Annotated[str | None, typer.Option(help="name of the run; the config's by default")] = None,
    out: Annotated[Path, typer.Option(help="parent folder of runs")] = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run of this name")] = False,
    changed_data: Annotated[
        bool,
        typer.Option("--changed-data", help="go on although files of its data changed, such as mended ones"),
    ] = False,
    device: Device = None,
) -> None:
    """Train the network that a config describes."""
    from segweave.schema import read_config

    checked = read_config(config, overrides or [])
    from segweave import build
    from segweave.resume import read_facts

    folder, results = build.train(checked, name, out.expanduser(), resume, device, changed_data=changed_data)
    method = read_facts(folder).get("balancing")  # a run that an earlier version began may have none
    _print_results(results, ", ".join(filter(None, ["validation", "best weights", method])))
    typer.echo(f"run: {folder}")
    if (folder / "report.html").is_file():
        typer.echo(f"report: {folder / 'report.html'}")


@app.command()
def report(run: RunPath, device: Device = None) -> None:
    """Make a run's page, picture and table anew."""
    from segweave import build

    typer.echo(f"report: {build.report_run(run, device)}")


@app.command()
def evaluate(
    run: RunPath,
    split: Split = "val",
    data: Annotated[
        Path | None, typer.Option(help="config of other data; tasks in it say how to read its labels")
    ] = None,
    device: Device = None,
) -> None:
    """Measure a run's best network on a split."""
    from segweave.schema import read_config

    other = read_config(data, data_only=True) if data else None
    from segweave import build

    results = build.evaluate_run(run, split, other, device=device)
    _print_results(results, f"{run.name}, {split}")
    typer.echo(f"written: {build.evaluation_file(run, split, other)}")


@app.command()
def score(
    config: ConfigPath,
    predictions: Annotated[Path, typer.Option(help="folder of prediction files")],
    split: Split = "val",
    out: Annotated[Path | None, typer.Option(help="JSON file to write")] = None,
) -> None:
    """Measure prediction files of any origin."""
    from segweave.schema import read_config

    checked = read_config(config)
    from segweave import build

    predictions, out = predictions.expanduser(), out.expanduser() if out else None
    results = build.score_predictions(checked, predictions, split, out)
    _print_results(results, f"{predictions}, {split}")
    if out:
        typer.echo(f"written: {out}")


@app.command()
def predict(
    run: RunPath,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="images, folders or globs")],
    out: Annotated[Path | None, typer.Option(help="folder to write to; RUN/predictions by default")] = None,
    device: Device = None,
) -> None:
    """Predict every task on images, into files and pictures."""
    from segweave.predict import predict_run

    done = predict_run(run, sources, out.expanduser() if out else None, device)
    for line in [*done.notes, *done.problems]:
        typer.echo(line, err=True)
    if done.folder:
        typer.echo(f"predictions: {done.folder}")
    if done.problems:
        raise typer.Exit(1)


@app.command()
def check(
    config: ConfigPath,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the page; check/CONFIG by default")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="processes that read; one per core by default")] = None,
) -> None:
    """Read all data of a config and say what is wrong with it."""
    from segweave.schema import read_config

    checked = read_config(config, overrides or [])
    from segweave import check
    from segweave.terminal import console

    done = check.check(checked, out.expanduser() if out else None, workers, console(stderr=True))
    console().print(check.report(done))
    typer.echo(f"page: {done.page}")
    if done.errors:
        raise typer.Exit(1)


@app.command()
def compare(
    config: ConfigPath,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="another way to train, such as 'upgrad balancing.method=upgrad' or 'pair tasks=a,b'"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="how many")] = 3,
    separate: Annotated[bool, typer.Option(help="whether to train one network per task")] = True,
    data_fractions: Annotated[
        str | None, typer.Option(metavar="0.1,0.5,...", help="shares of the training images to train on, too")
    ] = None,
    scarce: Annotated[
        str | None, typer.Option(metavar="TASK", help="a task with such shares of its labels and all of the others'")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of runs and page; compare/CONFIG by default")] = None,
    split: Annotated[str | None, typer.Option(help="where to measure; test where it has labels, else val")] = None,
    resamples: Annotated[int, typer.Option(help="of the images, for the intervals")] = 200,
    jobs: Annotated[int | None, typer.Option(help="runs at once; by default one per GPU")] = None,
    device: Device = None,
) -> None:
    """Compare one network for all tasks with one for each."""
    from segweave.schema import read_config
    from segweave.variants import shares_written, written

    checked = read_config(config, overrides or [])
    changed = dict(written(text) for text in variant or ())
    fractions = shares_written(data_fractions or "")
    from segweave import compare
    from segweave.terminal import console

    folder, made = compare.compare(
        checked,
        changed,
        seeds=seeds,
        separate=separate,
        fractions=fractions,
        scarce=scarce,
        out=out.expanduser() if out else None,
        split=split,
        draws=resamples,
        jobs=jobs,
        device=device,
        command=shlex.join(["segweave", *sys.argv[1:]]),
        shown=console(stderr=True),
    )
    console().print(compare.table(made))
    for line in compare.sentences(made):
        typer.echo(line)
    typer.echo(f"report: {folder / 'report.html'}")


@app.command()
def tune(
    config: ConfigPath,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
    trials: Annotated[int, typer.Option(help="how many in all, each a training")] = 30,
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="'KEY=LOW..HIGH' or 'KEY=a,b,c' of the config, several times for several; not the usual ones"
        ),
    ] = None,
    methods: Annotated[str | None, typer.Option(metavar="A,B,...", help="balancing methods to try as well")] = None,
    holdout: Annotated[
        float, typer.Option(help="share of the training images to score on, where compare measures on val")
    ] = 0.2,
    out: Annotated[Path | None, typer.Option(help="folder of trials and results; tune/CONFIG by default")] = None,
    device: Device = None,
) -> None:
    """Search task weights, learning rate and method."""
    from segweave.schema import read_config

    checked = read_config(config, overrides or [])
    from segweave import tune
    from segweave.terminal import console

    folder, tuned = tune.tune(
        checked,
        trials=trials,
        search=search or (),
        methods=methods.split(",") if methods else (),
        share=holdout,
        out=out.expanduser() if out else None,
        device=device,
        shown=console(stderr=True),
    )
    console().print(tune.table(tuned))
    for line in tune.sentences(tuned):
        typer.echo(line)
    if tuned.best.changes:
        variant = ["--variant", f"tuned {' '.join(tuned.best.changes)}"]
        typer.echo(f"  {shlex.join(['segweave', 'compare', str(config), *(overrides or []), *variant])}")
    typer.echo(f"config: {folder / 'best.yaml'}")


@app.command()
def advise(
    config: ConfigPath,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
    steps: Annotated[int | None, typer.Option(help="of each short run; a tenth of the config's by default")] = None,
    seeds: Annotated[int, typer.Option(help="how many")] = 2,
    pairs: Annotated[
        bool, typer.Option(help="whether to train a network per pair; the lookahead decides without them")
    ] = True,
    importance: Annotated[
        str | None, typer.Option(metavar="TASK=2,...", help="weights of the tasks' gains; 1 by default")
    ] = None,
    max_latency: Annotated[float | None, typer.Option(help="of all networks together, milliseconds an image")] = None,
    max_memory: Annotated[float | None, typer.Option(help="of all networks together, 10^6 bytes")] = None,
    max_parameters: Annotated[float | None, typer.Option(help="of all networks together")] = None,
    max_networks: Annotated[int | None, typer.Option(help="how many")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of runs and page; advise/CONFIG by default")] = None,
    split: Annotated[str, typer.Option(help="where to measure")] = "val",
    resamples: Annotated[int, typer.Option(help="of the images, for the intervals")] = 200,
    jobs: Annotated[int | None, typer.Option(help="runs at once; by default one per GPU")] = None,
    device: Device = None,
) -> None:
    """Advise which tasks to train together, from short runs."""
    from segweave.schema import read_config
    from segweave.variants import weights_written

    checked = read_config(config, overrides or [])
    weights = weights_written(importance or "")
    asked = {
        "milliseconds": max_latency,
        "peak_megabytes": max_memory,
        "parameters": max_parameters,
        "networks": max_networks,
    }
    from segweave import advise
    from segweave.report.advise_page import advice
    from segweave.terminal import console

    folder, made = advise.advise(
        checked,
        steps=steps,
        seeds=seeds,
        pairs=pairs,
        importance=weights,
        limits={key: limit for key, limit in asked.items() if limit is not None},
        out=out.expanduser() if out else None,
        split=split,
        draws=resamples,
        jobs=jobs,
        device=device,
        command=shlex.join(["segweave", *sys.argv[1:]]),
        shown=console(stderr=True),
    )
    console().print(advise.table(made))
    typer.echo(advice(made))
    for path in made.proposals[0].configs:
        typer.echo(f"config: {path}")
    typer.echo(f"report: {folder / 'report.html'}")


@app.command()
def runs(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="[FOLDER...]", help="searched; runs if none")] = None,
    sort: Annotated[str | None, typer.Option(help="task/metric by which the best comes first; else newest")] = None,
    tasks: Annotated[str | None, typer.Option(help="whose results are shown, such as semantic,depth; else all")] = None,
    differences: Annotated[
        bool, typer.Option("--differences", help="show the keys of the config in which the runs differ")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="file for all metrics and differences")] = None,
) -> None:
    """List runs beside each other, with settings and results."""
    from segweave import runs
    from segweave.atomic import write_text
    from segweave.terminal import console

    found = runs.find_runs([folder.expanduser() for folder in folders or [Path("runs")]])
    found = found if sort is None else runs.best_first(found, sort)
    chosen = runs.choose_tasks(found, tasks.split(",") if tasks else ())
    shown = console()
    table, left_out = runs.table(found, chosen, sort, differences, shown.width)
    if found:
        shown.print(table)
    for run in found:
        if run.problem:
            typer.echo(f"{run.name}: damaged: {run.problem}", err=True)
    if left_out:
        typer.echo(f"left out in {shown.width} columns: {', '.join(left_out)}; --csv FILE has them", err=True)
    typer.echo(f"runs: {len(found)}")
    if csv:
        try:
            write_text(csv.expanduser(), runs.runs_csv(found, chosen))
        except OSError as error:
            raise ConfigError(f"--csv {csv}: cannot be written: {error.strerror}; choose another file") from None
        typer.echo(f"written: {csv}")


@app.command()
def methods() -> None:
    """List the balancing methods with cost and paper."""
    from segweave.balancing.listing import methods_table
    from segweave.terminal import console

    console().print(methods_table())


@data_verbs.command("convert")
def convert_data(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="folder to write to; a numbered one beside it where it holds something")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
    splits: Annotated[list[str] | None, typer.Option(help="a split to convert, several times for several; all")] = None,
) -> None:
    """Write the data of a config, in any format, as a folder with a config that reads it."""
    from segweave.schema import read_config

    checked = read_config(config, overrides or [])
    from segweave.data.convert import convert
    from segweave.sources import build_dataset, build_tasks
    from segweave.terminal import console

    tasks = build_tasks(checked)
    read = partial(build_dataset, checked, tasks=tasks)
    done = convert(checked, tasks, read, out.expanduser(), splits or (), console(stderr=True))
    console().print(done.table())
    for line in [*(f"{note} ({count})" for note, count in done.notes.items()), *done.problems]:
        typer.echo(line, err=True)
    typer.echo(f"config: {done.folder / 'config.yaml'}")
    if done.problems:
        raise typer.Exit(1)


@data_verbs.command("split")
def split_data(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="folder of the lists; a numbered one beside it where it holds something")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
    val: Annotated[float, typer.Option(help="share of the images that validate")] = 0.2,
    test: Annotated[float, typer.Option(help="share of the images that test; 0 for no such split")] = 0.0,
    group: Annotated[
        str | None, typer.Option(help="what stays together: folder, a column, or a regular expression on the id")
    ] = None,
    stratify: Annotated[str | None, typer.Option(help="task whose classes are shared out; by default all")] = None,
    near: Annotated[bool, typer.Option(help="whether images that look almost alike stay together")] = True,
    seed: Annotated[int, typer.Option(help="another one deals otherwise")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="processes that read, beside this one")] = 0,
) -> None:
    """Deal the images of a config into splits that share no group and no copy, with each class in its share."""
    from segweave.schema import read_config

    checked = read_config(config, overrides or [])
    from segweave.data.splitting import split
    from segweave.sources import build_dataset, build_tasks
    from segweave.terminal import console

    tasks = build_tasks(checked)
    done = split(
        checked,
        tasks,
        partial(build_dataset, split="train", tasks=tasks),
        out.expanduser(),
        {"val": val} | ({"test": test} if test else {}),
        group=group,
        stratify=stratify,
        near=near,
        seed=seed,
        workers=workers,
        console=console(stderr=True),
    )
    console().print(done.table())
    for line in [*done.notes, *done.problems]:
        typer.echo(line, err=True)
    typer.echo(f"config: {done.folder / 'config.yaml'}")
    if done.problems:
        raise typer.Exit(1)


def _print_results(results: dict, title: str) -> None:
    from segweave.report.table import results_table
    from segweave.terminal import console

    console().print(results_table(results, title))


def _usage(error: Any) -> str:
    """What is wrong with a command line, in one line, and where to read how it is meant."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    called = error.ctx.command_path if error.ctx else "segweave"
    key = (getattr(error, "option_name", None) or "").lstrip("-").replace("-", "_")
    from segweave.catalogue import signature_options

    if key in signature_options("segweave.plan:Plan")[0]:
        return f"{message}; it is a key of the config, to be written as train.{key}=VALUE behind CONFIG"
    return f"{message}; see `{called} --help`"


def main() -> None:
    """The console script: a user's mistake is one message and exit code 2, Ctrl-C is 130 and SIGTERM 143.

    Training finishes its step and saves before it obeys either; the other verbs leave no half-written file.
    """
    warnings.filterwarnings("ignore", module="PIL")  # of damaged files, which the message names
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="segweave", standalone_mode=False)
    except (SegweaveError, _UsageError) as error:
        print(f"error: {error if isinstance(error, SegweaveError) else _usage(error)}", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, typer.Abort):  # some versions of typer turn the one into the other
        code = 130
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(code)  # out here no traceback holds on to the processes that read data
