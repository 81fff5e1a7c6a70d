"""Trials in Optuna: what to try next, which to give up early, and a file that remembers all of them.

What is tried next is a function of the seed, the trial's number and the results of the trials before it: a search that
was stopped goes on as if it had not been.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from segweave.errors import ConfigError
from segweave.search_space import Choice, Range, Space
from segweave.seeds import seed_for

_STARTUP = 5
"""Trials that finish before one is pruned."""


@dataclass(frozen=True)
class Ended:
    """A trial that came to its end.

    Args:
        number: from 0.
        state: `finished`, `pruned`, or why it was given up.
        values: by key of the search space.
        score: that it was told with; None for one that did not finish.
    """

    number: int
    state: str
    values: Mapping[str, Any]
    score: float | None


class Study:
    """A search for the highest score. Its first trial has the config's own values.

    A trial is pruned by the median rule of Golovin et al., Google Vizier: a service for black-box optimization (2017),
    section 3.2.1: where its best score so far is below the median of the finished trials at that step. What is tried
    comes from the tree-structured Parzen estimator of Bergstra et al., Algorithms for hyper-parameter optimization
    (2011), over all keys together.

    Args:
        file: where it is kept; a study that is there goes on.
        about: all that its scores depend on, by section and key.
        space: what is searched.
        seed: of what is tried.
        warmup: steps of a trial before it may be pruned.

    Raises:
        ConfigError: the study that is there is about something else.
    """

    def __init__(
        self, file: Path, about: Mapping[str, Mapping[str, Any]], space: Space, seed: int, warmup: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._seed = space, seed
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(file))),
            study_name="segweave",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(_STARTUP, warmup),
            load_if_exists=True,
        )
        about = json.loads(json.dumps(about))
        before = self._study.user_attrs.get("about")
        if before is None:
            self._study.set_user_attr("about", about)
        elif before != about:
            raise ConfigError(f"{file.parent}: was tuned otherwise: {_difference(before, about)}; choose another --out")
        if not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial({dimension.key: dimension.own for dimension in space})

    def begin(self, number: int) -> Trial | None:
        """A trial with its values, the same ones where it was stopped before; None for one that has ended."""
        # one generator for all trials would begin anew when the study goes on, and repeat itself
        self._study.sampler = optuna.samplers.TPESampler(seed=seed_for(self._seed, number) % 2**32, multivariate=True)
        known = self._study.get_trials(deepcopy=False)
        if number < len(known) and known[number].state.is_finished():
            return None
        running = number < len(known) and known[number].state == TrialState.RUNNING
        trial = Trial(self._study, known[number]._trial_id) if running else self._study.ask()
        for dimension in self._space:
            _suggest(trial, dimension)
        return trial

    def report(self, trial: Trial, step: int, score: float) -> None:
        """How good a trial is after a step; a step that is repeated after a stop says nothing new."""
        if step not in self._study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(score, step)

    def finish(self, trial: Trial, score: float) -> None:
        self._study.tell(trial, score)

    def give_up(self, trial: Trial, why: str) -> None:
        """Ends a trial without a score, as `pruned` or for another reason; what is tried next avoids its like."""
        trial.set_user_attr("why", why)
        self._study.tell(trial, state=TrialState.PRUNED)

    def ended(self) -> list[Ended]:
        """All trials that came to their end, in order."""
        return [
            Ended(
                trial.number,
                trial.user_attrs.get("why", "finished"),
                trial.params,
                trial.value if trial.state == TrialState.COMPLETE else None,
            )
            for trial in self._study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
        ]


def _suggest(trial: Trial, dimension: Range | Choice) -> None:
    if isinstance(dimension, Choice):
        trial.suggest_categorical(dimension.key, dimension.values)
    elif dimension.whole:
        trial.suggest_int(dimension.key, round(dimension.low), round(dimension.high), log=dimension.log)
    else:
        trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.log)


def _difference(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> str:
    """What of the two differs, at most four keys of it."""
    keys = {(section, key) for about in (before, now) for section, values in about.items() for key in values}
    found = [
        f"{section}.{key} was {json.dumps(old)} and is {json.dumps(new)}"
        for section, key in sorted(keys)
        if (old := before.get(section, {}).get(key)) != (new := now.get(section, {}).get(key))
    ]
    return "; ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
