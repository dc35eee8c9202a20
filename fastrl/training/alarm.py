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
EMPTY_CUTS = "transfer/empty_cuts"
WATCHED = (ENTROPY, LENGTH, CLIPPED, COMMON, AGREEMENT, ESS, LOG_RATIO, EMPTY_CUTS, "reward")
COLLAPSE, SATURATED, DRIFT, TRANSFER = "alarm/collapse", "alarm/saturated", "alarm/drift", "alarm/transfer"
OF_ALARM = {"collapse": COLLAPSE, "saturation": SATURATED, "drift": DRIFT, "transfer": TRANSFER}


class Alarms:
    """Judges a run after each of its steps, by what metrics.jsonl holds of all steps until then.

        start = mean of the first `span` values;  e = ema(values, span)
        collapse   <=>  one of these holds in each of the last `patience` steps, none of which is a start's:
                        e < min_entropy_ratio * start                             of the entropy
                        e > length_factor * start or e < start / length_factor    of the mean length
                        e > max_clipped_fraction                                  of the clipped share
                        e > max_common_share                                      of answers/most_common_share
                        e < min_agreement_ratio * start                           of answers/agreement
        saturated  <=>  has_saturated(rewards, saturation_share, saturation_patience, span)
        drift      <=>  as collapse, of:
                        e < min_ess                                               of drift/ess_tokens
                        e > max_log_ratio                                         of drift/log_ratio/mean
        transfer   <=>  as collapse, of:
                        e > max_empty_cuts                                        of transfer/empty_cuts

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
        if self.values[EMPTY_CUTS]:
            reasons[TRANSFER] = self.transfer()
        fresh = [f"{name}: {reason}" for name, reason in reasons.items() if reason and name not in self.told]
        alarms = {name: float(reason is not None) for name, reason in reasons.items()}
        self.told |= {name for name, reason in reasons.items() if reason}
        self.last = alarms
        return alarms, fresh

    def collapse(self) -> str | None:
        """The first reason that holds, in words."""
        config = self.config
        rules: list[tuple[str, float, float]] = []
        if config.min_entropy_ratio is not None:
            rules.append((ENTROPY, config.min_entropy_ratio * self._start(ENTROPY), float("inf")))
        if config.length_factor is not None:
            start = self._start(LENGTH)
            rules.append((LENGTH, start / config.length_factor, start * config.length_factor))
        if config.max_clipped_fraction is not None:
            rules.append((CLIPPED, 0.0, config.max_clipped_fraction))
        if config.max_common_share is not None:
            rules.append((COMMON, 0.0, config.max_common_share))
        if config.min_agreement_ratio is not None:
            rules.append((AGREEMENT, config.min_agreement_ratio * self._start(AGREEMENT), 1.0))
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
        if self.config.min_ess is not None:
            rules.append((ESS, self.config.min_ess, float("inf")))
        if self.config.max_log_ratio is not None:
            rules.append((LOG_RATIO, 0.0, self.config.max_log_ratio))
        return next((reason for rule in rules if (reason := self._outside(*rule))), None)

    def transfer(self) -> str | None:
        """The reason why the transfer reward says little, in words."""
        most = self.config.max_empty_cuts
        return None if most is None else self._outside(EMPTY_CUTS, 0.0, most)

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
