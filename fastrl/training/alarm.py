"""Alarms on a run's own metrics: collapse, saturation, drift, empty cuts. None uses a gold answer."""

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
METRIC_OF = {"collapse": COLLAPSE, "saturation": SATURATED, "drift": DRIFT, "transfer": TRANSFER}


class Alarms:
    """Rules that are checked after each step, on the metrics of all steps so far.

        start = mean of the first `span` values;  e = ema(values, span)
        collapse   <=>  in each of the last `patience` steps, all after the start, one of these holds:
                        entropy                     e < min_entropy_ratio * start
                        completions/mean_length     e > length_factor * start or e < start / length_factor
                        completions/clipped_ratio   e > max_clipped_fraction
                        answers/most_common_share   e > max_common_share
                        answers/agreement           e < min_agreement_ratio * start
        saturated  <=>  has_saturated(rewards, saturation_share, saturation_patience, span)
        drift      <=>  as collapse, with:
                        drift/ess_tokens            e < min_ess
                        drift/log_ratio/mean        e > max_log_ratio
        transfer   <=>  as collapse, with:
                        transfer/empty_cuts         e > max_empty_cuts

    A rule skips steps that lack its metric, such as the entropy if no token carried gradient.

    Args:
        history: the lines of metrics.jsonl, in order of step.
    """

    def __init__(self, config: AlarmConfig, history: Sequence[Mapping[str, Any]] = ()) -> None:
        self.config = config
        self.values: dict[str, list[float]] = {name: [] for name in WATCHED}
        self.reported = {name for line in history for name in METRIC_OF.values() if line.get(name)}
        self.last: Mapping[str, Any] = history[-1] if history else {}
        for line in history:
            self._keep(line)

    @classmethod
    def of_run(cls, context: Context[RlConfig]) -> Alarms:
        """Return the alarms of a run folder, with its history on the first rank, and none on the others."""
        metrics = context.run.metrics_file
        seen = context.ranks.first and metrics.exists()
        return cls(context.config.alarm, read_metrics(metrics) if seen else ())

    def end_training(self, ranks: Ranks) -> bool:
        """Return True, on every rank, if an alarm of stop_on is raised on the first rank."""
        return ranks.sum([float(ranks.first and self.stops)])[0] > 0

    @property
    def stops(self) -> bool:
        """True if an alarm of stop_on is raised after the last step."""
        return any(self.last.get(METRIC_OF[name]) for name in self.config.stop_on)

    def judge(self, metrics: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
        """Add a step's metrics; return the alarms (1 or 0) and a message for each that is new in the run."""
        self._keep(metrics)
        reasons = {COLLAPSE: self.collapse(), SATURATED: self.saturation(), DRIFT: self.drift()}
        if self.values[EMPTY_CUTS]:
            reasons[TRANSFER] = self.transfer()
        new = [
            f"{name}: {reason}" for name, reason in reasons.items() if reason and name not in self.reported
        ]
        alarms = {name: float(reason is not None) for name, reason in reasons.items()}
        self.reported |= {name for name, reason in reasons.items() if reason}
        self.last = alarms
        return alarms, new

    def collapse(self) -> str | None:
        """Return the first collapse rule that holds, as a message; None if none does."""
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
        """Return a message if the reward has saturated, else None."""
        rewards, config = self.values["reward"], self.config
        saturated = bool(rewards) and has_saturated(
            rewards, share=config.saturation_share, patience=config.saturation_patience, span=config.span
        )
        return f"reward has not risen in {config.saturation_patience} steps" if saturated else None

    def drift(self) -> str | None:
        """Return the first drift rule that holds, as a message; None if none does."""
        rules: list[tuple[str, float, float]] = []
        if self.config.min_ess is not None:
            rules.append((ESS, self.config.min_ess, float("inf")))
        if self.config.max_log_ratio is not None:
            rules.append((LOG_RATIO, 0.0, self.config.max_log_ratio))
        return next((reason for rule in rules if (reason := self._outside(*rule))), None)

    def transfer(self) -> str | None:
        """Return a message if too many cuts are empty, else None."""
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
        """Return a message if the moving average left [low, high] in each of the last `patience` steps."""
        values, patience = self.values[name], self.config.patience
        if len(values) < self.config.span + patience:
            return None
        last = ema(values, self.config.span)[-patience:]
        if any(low <= value <= high for value in last):
            return None
        return f"{name} {last[-1]:.4g} is outside [{low:.4g}, {high:.4g}] for {patience} steps"
