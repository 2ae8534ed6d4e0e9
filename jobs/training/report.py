"""The evidence about a version as one page for people, beside its figures and pictures in MLflow.

In: evidence, the gate's verdict, the pictures of the run. Out: one HTML file, see jobs/page.py.
"""

from __future__ import annotations

from html import escape

from jobs.page import NONE, figure, number, page, table
from jobs.training.evidence import Evidence, Figures
from jobs.training.explain import in_words
from jobs.training.gate import GateResult
from jobs.training.pictures import MOST_FEATURES, PICTURES
from jobs.training.run_folder import RunFolder

REPORT_FILE = "report.html"


def with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A figure with its 95 % interval, where it has one."""
    if low is None or high is None:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def money(minor: float | None, currency: str) -> str:
    """An amount of minor units in major ones."""
    return NONE if minor is None else f"{minor / 100:,.2f} {currency}"


def pictures(folder: RunFolder, *names: str) -> str:
    """Pictures of the run, inside the page."""
    return "".join(
        figure(PICTURES[name], folder.existing(f"pictures/{name}.png").read_bytes()) for name in names
    )


def report_page(
    evidence: Evidence, gate: GateResult, folder: RunFolder, *, model: str, drill: str, currency: str
) -> str:
    """The page, with the pictures of the run's folder; `drill` says what was broken on purpose."""
    parts = [
        _summary(evidence, gate, drill),
        "<h2>Figures</h2>",
        _figures(evidence),
        pictures(folder, "pr_curve", "roc_curve", "reliability", "score_histogram"),
        "<h2>Money</h2>",
        _money(evidence, currency),
        pictures(folder, "cost_curve"),
        "<h2>Slices and weeks</h2>",
        _slices(evidence),
        pictures(folder, "slices", "weeks"),
        "<h2>Groups</h2>",
        _groups(evidence),
        "<h2>What the model looks at</h2>",
        _features(evidence),
        pictures(folder, "contributions", "feature_importance"),
        "<h2>Highest scores</h2>",
        _cases(evidence),
        "<h2>Behaviour and leaks</h2>",
        _behaviour(evidence),
    ]
    return page(f"Evidence: {model}, run {evidence.run}", parts)


def _summary(evidence: Evidence, gate: GateResult, drill: str) -> str:
    text = (
        f"Trained as of {evidence.day}; judged on {evidence.rows:,} transactions of {evidence.test_first} to "
        f"{evidence.test_last}, {evidence.positives:,} of them frauds, that nothing else has seen."
    )
    broken = "" if drill == "none" else f"<p class='fail'>Fire drill, broken on purpose: {escape(drill)}.</p>"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in gate.reasons)
    checks = table(
        ("check", "outcome", "value", "threshold", "detail"),
        ((each.name, each.outcome.value, each.value, each.threshold, each.detail) for each in gate.checks),
    )
    kind = {"blocked": "fail", "automatic": "pass"}.get(gate.classification, "inconclusive")
    verdict = f"<h2>Gate: <span class='{kind}'>{escape(gate.classification)}</span></h2>"
    return f"<p>{escape(text)}</p>{broken}{verdict}<ul>{reasons}</ul>{checks}"


def models_of(evidence: Evidence) -> list[Figures]:
    """The challenger and what it is compared with."""
    return [evidence.challenger, *([evidence.champion] if evidence.champion else []), *evidence.baselines]


def _figures(evidence: Evidence) -> str:
    rows = (
        (
            each.name,
            with_interval(each.pr_auc, each.pr_auc_low, each.pr_auc_high),
            with_interval(each.roc_auc, each.roc_auc_low, each.roc_auc_high),
            each.card_precision,
            each.recall_at_fpr,
            each.ece,
            each.brier,
        )
        for each in models_of(evidence)
    )
    head = ("model", "PR-AUC [95 %]", "ROC-AUC [95 %]", "card precision @100 a day",
            "recall at the policy's FPR", "calibration error", "Brier")  # fmt: skip
    against = ""
    if evidence.champion_version:
        change = evidence.difference
        told = evidence.champion_problem or with_interval(change.value, change.low, change.high)
        against = f"PR-AUC against champion {evidence.champion_version}, on the same rows: {told}. "
    p50, p99 = (number(value, 3) for value in (evidence.latency_p50_ms, evidence.latency_p99_ms))
    text = f"{against}One score takes {p50} ms (p50), {p99} ms (p99) of a processor."
    return f"{table(head, rows)}<p>{escape(text)}</p>"


def _money(evidence: Evidence, currency: str) -> str:
    point = evidence.operating_point
    rows = [
        (
            name,
            number(point.get(f"{key}_threshold")),
            number(point.get(f"{key}_false_positive_rate")),
            number(point.get(f"{key}_fraud_caught")),
            money(point.get(f"{key}_cost_minor"), currency),
        )
        for name, key in (("chosen, within the limits", "chosen"), ("cheapest of all", "cheapest"))
    ]
    if not point.get("within_limits"):
        rows[0] = ("chosen: none keeps the limits, so the cheapest", *rows[0][1:])
    rows.append(("nothing stopped", NONE, "0", "0", money(point.get("nothing_stopped_cost_minor"), currency)))
    champions = {each.decision: each for each in evidence.champion_decisions}
    decisions = (
        (
            each.decision,
            each.frauds,
            money(each.fraud_amount_minor, currency),
            each.good,
            money(each.good_amount_minor, currency),
            *((old.frauds, old.good) if (old := champions.get(each.decision)) else (NONE, NONE)),
        )
        for each in evidence.decisions
    )
    head = ("decision", "frauds", "their amount", "good", "their amount")
    return (
        table(("operating point", "threshold", "false positive rate", "frauds caught", "cost"), rows)
        + "<h3>By decision band of the policy, rules aside</h3>"
        + table((*head, "champion: frauds", "champion: good"), decisions)
        + f"<p>{escape(saved_text(evidence, currency))}</p>"
    )


def saved_text(evidence: Evidence, currency: str) -> str:
    """What these decisions save a day, beside the champion's."""
    found = evidence.saved
    if found is None:
        return ""
    text = f"These decisions save {money(found.challenger_minor, currency)} a day"
    if not evidence.champion_version:
        return f"{text}."
    if evidence.champion_problem:
        return f"{text}; champion {evidence.champion_version}: {evidence.champion_problem}."
    change = found.difference
    low, high = (money(end, currency) for end in (change.low, change.high))
    old = money(found.champion_minor, currency)
    return (
        f"{text}, those of champion {evidence.champion_version} {old} on the same rows: "
        f"difference {money(change.value, currency)} [{low}, {high}]."
    )


def _slices(evidence: Evidence) -> str:
    slices = (
        (
            each.name,
            each.rows,
            each.positives,
            with_interval(each.pr_auc, each.pr_auc_low, each.pr_auc_high),
            each.champion_pr_auc,
            with_interval(each.difference.value, each.difference.low, each.difference.high),
        )
        for each in evidence.slices
    )
    weeks = (
        (
            f"{each.first} to {each.last}",
            each.rows,
            each.positives,
            with_interval(each.pr_auc, each.pr_auc_low, each.pr_auc_high),
        )
        for each in evidence.weeks
    )
    head = ("rows", "frauds", "PR-AUC [95 %]")
    return table(("slice", *head, "champion", "difference [95 %]"), slices) + table(("week", *head), weeks)


def _groups(evidence: Evidence) -> str:
    rows = (
        (
            group.name,
            band.name,
            band.rows,
            band.positives,
            band.true_positive_rate,
            band.false_positive_rate,
        )
        for group in evidence.groups
        for band in group.bands
    )
    return table(("group", "band", "rows", "frauds", "frauds not approved", "good not approved"), rows)


def _features(evidence: Evidence) -> str:
    rows = (
        (each.feature, each.mean_absolute, each.rises, evidence.importance.get(each.feature))
        for each in evidence.contributions[:MOST_FEATURES]
    )
    head = ("feature", "mean size, log-odds", "rank correlation with its value", "share of gain")
    note = "Exact contributions to the boosted trees before calibration and blending."
    return f"<p>{note}</p>{table(head, rows)}"


def _cases(evidence: Evidence) -> str:
    rows = (
        (
            str(each.transaction_id),
            str(each.day),
            each.score,
            "fraud" if each.is_fraud else "good",
            "; ".join(f"{in_words(reason)} ({reason.contribution:+.2f})" for reason in each.reasons),
        )
        for each in evidence.cases
    )
    return table(("transaction", "day", "score", "truth", "what raised it most (log-odds)"), rows)


def _behaviour(evidence: Evidence) -> str:
    behaviour = (
        (each.name, each.expected, each.rows, each.change, each.share_wrong, _held(each.held))
        for each in evidence.behaviour
    )
    leaks = (
        (
            each.name,
            each.expected,
            with_interval(each.value, each.low, each.high),
            each.chance,
            _held(each.held),
        )
        for each in evidence.leak_checks
    )
    return (
        table(("what changes", "expected", "rows", "change", "share that moves the wrong way", ""), behaviour)
        + table(("leak check", "expected", "figure [95 %]", "chance", ""), leaks)
    )  # fmt: skip


def _held(held: bool) -> str:
    return "holds" if held else "does not hold"
