"""What the scorer counts about its answers, for /state and /metrics: plain numbers, since the process began.

Amounts are in minor units. What the holdout let through is counted as it happens: the amount, and the loss
that the score expects of it, which is the score times the amount.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from jobs.serving.metrics import counter


class Counts:
    """Counted on the event loop alone, so nothing is locked; `shadow_late` in the shadow's thread alone."""

    def __init__(self) -> None:
        self.shadow_dropped = 0  # the queue was full
        self.shadow_late = 0  # its step was over
        self._answers: dict[tuple[str, ...], float] = {}
        self._rules: dict[tuple[str, ...], float] = {}
        self._degraded: dict[tuple[str, ...], float] = {}
        self._held_out = self._held_out_amount = self._held_out_loss = 0.0

    def answered(self, variant: str, decision: str, rule: str, degraded: str) -> None:
        """One answer; `rule` is the one that fired, whether it decided or not."""
        key = (variant, decision)
        self._answers[key] = self._answers.get(key, 0) + 1
        if rule:
            self._rules[(rule,)] = self._rules.get((rule,), 0) + 1
        if degraded:
            self._degraded[(degraded,)] = self._degraded.get((degraded,), 0) + 1

    def let_through(self, amount_minor: int, score: float) -> None:
        """One block that became an approval."""
        self._held_out += 1
        self._held_out_amount += amount_minor
        self._held_out_loss += score * amount_minor

    @property
    def shadow_given_up(self) -> int:
        return self.shadow_dropped + self.shadow_late

    def by_variant(self) -> dict[str, int]:
        """Answers by variant."""
        found: dict[str, int] = {}
        for (variant, _), number in self._answers.items():
            found[variant] = found.get(variant, 0) + int(number)
        return found

    def collect(self) -> Iterator[Metric]:
        """As Prometheus has it."""
        yield counter(
            "sluice_answers",
            "answers by who gave them and what",
            ["variant", "decision"],
            dict(self._answers),
        )
        yield counter("sluice_rules_fired", "rules that fired", ["rule"], dict(self._rules))
        yield counter(
            "sluice_degraded_answers",
            "answers that rest on less than usual, by reason",
            ["reason"],
            dict(self._degraded),
        )
        for name, text, value in (
            ("sluice_holdout", "blocks let through", self._held_out),
            ("sluice_holdout_amount_minor", "amount let through, minor units", self._held_out_amount),
            (
                "sluice_holdout_expected_loss_minor",
                "sum of score times amount let through",
                self._held_out_loss,
            ),
            ("sluice_shadow_dropped", "shadow scores that were given up", self.shadow_given_up),
        ):
            yield counter(name, text, [], {(): value})
