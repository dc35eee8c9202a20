"""Alarms over a run's own metrics: has it collapsed, has its reward stopped rising? Gold plays no part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastrl.config import AlarmConfig, RlConfig
from fastrl.evaluate.saturation import ema, has_saturated
from fastrl.runtime.context import Context
from fastrl.runtime.distributed import Ranks
from fastrl.runtime.run import finite, read_metrics

ENTROPY, LENGTH = "entropy", "completions/mean_length"
CLIPPED, COMMON = "completions/clipped_ratio", "answers/most_common_share"
AGREEMENT = "answers/agreement"
ESS, LOG_RATIO = "drift/ess_tokens", "drift/log_ratio/mean"
WATCHED = (ENTROPY, LENGTH, CLIPPED, COMMON, AGREEMENT, ESS, LOG_RATIO, "reward")
COLLAPSE, SATURATED, DRIFT = "alarm/collapse", "alarm/saturated", "alarm/drift"
OF_ALARM = {"collapse": COLLAPSE, "saturation": SATURATED, "drift": DRIFT}


class Alarms:
    """Judges a run after each of its steps, by what metrics.jsonl holds of all steps until then.

        start = mean of the first `span` values;  e = ema(values, span)
        collapse   <=>  one of these holds in each of the last `patience` steps, none of which is a start's:
                        e < keep_entropy * start                                  of the entropy
                        e > length_factor * start or e < start / length_factor    of the mean length
                        e > most_clipped                                          of the clipped share
                        e > most_common                                           of answers/most_common_share
                        e < keep_agreement * start                                of answers/agreement
        saturated  <=>  has_saturated(rewards, saturation_share, saturation_patience, span)
        drift      <=>  as collapse, of:
                        e < least_ess                                             of drift/ess_tokens
                        e > most_log_ratio                                        of drift/log_ratio/mean

    A step whose metrics lack a value (an entropy where nothing carried gradient) is passed over by its rule.

    Args:
        history: the lines of metrics.jsonl, step by step.
    """

    def __init__(self, config: AlarmConfig, history: Sequence[Mapping[str, Any]] = ()) -> None:
        self.config = config
        self.values: dict[str, list[float]] = {name: [] for name in WATCHED}
        self.told = {name for line in history for name in OF_ALARM.values() if line.get(name)}
        self.last: Mapping[str, Any] = history[-1] if history else {}
        for line in history:
            self._keep(line)

    @classmethod
    def of_run(cls, context: Context[RlConfig]) -> Alarms:
        """Return the alarms of a run folder, which know the steps that are in it; only on the first rank."""
        metrics = context.run.metrics_file
        seen = context.ranks.first and metrics.exists()
        return cls(context.config.alarm, read_metrics(metrics) if seen else ())

    def end_training(self, ranks: Ranks) -> bool:
        """Return, on every rank, whether an alarm of stop_on rings on the first, which has seen the run."""
        return ranks.sum([float(ranks.first and self.stops)])[0] > 0

    @property
    def stops(self) -> bool:
        """Whether an alarm of stop_on rings after the last step."""
        return any(self.last.get(OF_ALARM[name]) for name in self.config.stop_on)

    def judge(self, metrics: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        """The alarms after one more step, and a line for each that rings for the first time in the run."""
        self._keep(metrics)
        reasons = {COLLAPSE: self.collapse(), SATURATED: self.saturation(), DRIFT: self.drift()}
        fresh = [f"{name}: {reason}" for name, reason in reasons.items() if reason and name not in self.told]
        alarms = {name: float(reason is not None) for name, reason in reasons.items()}
        self.told |= {name for name, reason in reasons.items() if reason}
        self.last = alarms
        return alarms, fresh

    def collapse(self) -> str | None:
        """The first reason that holds, in words."""
        config = self.config
        rules: list[tuple[str, float, float]] = []
        if config.keep_entropy is not None:
            rules.append((ENTROPY, config.keep_entropy * self._start(ENTROPY), float("inf")))
        if config.length_factor is not None:
            start = self._start(LENGTH)
            rules.append((LENGTH, start / config.length_factor, start * config.length_factor))
        if config.most_clipped is not None:
            rules.append((CLIPPED, 0.0, config.most_clipped))
        if config.most_common is not None:
            rules.append((COMMON, 0.0, config.most_common))
        if config.keep_agreement is not None:
            rules.append((AGREEMENT, config.keep_agreement * self._start(AGREEMENT), 1.0))
        return next((reason for rule in rules if (reason := self._outside(*rule))), None)

    def saturation(self) -> str | None:
        rewards, config = self.values["reward"], self.config
        saturated = bool(rewards) and has_saturated(
            rewards, share=config.saturation_share, patience=config.saturation_patience, span=config.span
        )
        return f"reward has not risen in {config.saturation_patience} steps" if saturated else None

    def drift(self) -> str | None:
        """The first reason that holds, in words."""
        rules: list[tuple[str, float, float]] = []
        if self.config.least_ess is not None:
            rules.append((ESS, self.config.least_ess, float("inf")))
        if self.config.most_log_ratio is not None:
            rules.append((LOG_RATIO, 0.0, self.config.most_log_ratio))
        return next((reason for rule in rules if (reason := self._outside(*rule))), None)

    def _keep(self, metrics: Mapping[str, Any]) -> None:
        for name, values in self.values.items():
            value = finite(metrics.get(name))
            if value is not None:
                values.append(value)

    def _start(self, name: str) -> float:
        first = self.values[name][: self.config.span]
        return sum(first) / len(first) if first else 0.0

    def _outside(self, name: str, low: float, high: float) -> str | None:
        """Why, where the moving average has been below low or above high for so long."""
        values, patience = self.values[name], self.config.patience
        if len(values) < self.config.span + patience:
            return None
        last = ema(values, self.config.span)[-patience:]
        if any(low <= value <= high for value in last):
            return None
        return f"{name} {last[-1]:.4g} is outside [{low:.4g}, {high:.4g}] for {patience} steps"
