"""The model card of a version, in the sections of Mitchell et al. 2019, generated from its evidence.

In: evidence, the gate's verdict, facts of the frame, contract, policy, commit. Out: Markdown; of it as much
as MLflow keeps as the description of a version (5,000 characters, whole sections).
Nothing in it is written by hand but what the model is for and what it cannot do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from jobs.conf.contract import Contract
from jobs.conf.policy import Policy
from jobs.page import number
from jobs.promotion.state import GATE_AUTOMATIC, GATE_BLOCKED
from jobs.training.evidence import Evidence
from jobs.training.frame import FIT_ROLES, TEST, FrameFacts
from jobs.training.gate import GateResult
from jobs.training.report import models_of, money, saved_text, with_interval

CARD_FILE = "model_card.md"
DESCRIPTION_LENGTH = 5_000  # of a version in MLflow's database
REST = "\nThe whole card and `report.html` are among the artifacts of the run.\n"
LONGEST_REASON = 300


def model_card(
    evidence: Evidence,
    gate: GateResult,
    facts: FrameFacts,
    contract: Contract,
    policy: Policy,
    *,
    model: str,
    drill: str,
    author: str,
    commit: str,
) -> str:
    """The whole card."""
    sections = (
        ("", [f"# {_plain(model)}, run {_plain(evidence.run)}", "", *_verdict(gate, policy, drill, author)]),
        ("Purpose", _purpose(contract)),
        ("Figures on the test rows", _figures(evidence, contract)),
        ("Data and split", _data(evidence, facts, contract)),
        ("Limits", _limits(evidence, facts, contract)),
        ("Slices", _slices(evidence)),
        ("Behaviour", _behaviour(evidence)),
        ("What it looks at", _features(evidence)),
        ("How to reproduce", _reproduce(facts, commit)),
    )
    return "\n".join(
        "\n".join([*([f"## {title}", ""] if title else []), *lines, ""]) for title, lines in sections
    )


def description_of(card: str, length: int = DESCRIPTION_LENGTH) -> str:
    """The card, or as many of its sections as fit, with where the rest is."""
    if len(card) <= length:
        return card
    kept = ""
    for section in card.split("\n## "):
        grown = f"{kept}\n## {section}" if kept else section
        if len(grown) + len(REST) > length:
            break
        kept = grown
    return (kept or card[: length - len(REST)]) + REST


def _plain(text: str) -> str:
    """Text that neither breaks a table nor becomes a tag, a link or a picture."""
    one_line = " ".join(text.split())
    safe = one_line.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([|\[\]!`])", r"\\\1", safe)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(map(_plain, row))} |" for row in rows)]


def _verdict(gate: GateResult, policy: Policy, drill: str, author: str) -> list[str]:
    """The gate's answer, and who has to agree."""
    days = policy.approval.expires_days
    needed = {
        GATE_AUTOMATIC: "none; while there is no champion a person approves all the same",
        GATE_BLOCKED: "none opens a gate that found a fault; this version cannot be promoted",
    }.get(gate.classification, f"one person other than {author}, within {days:g} days of the promotion")
    reasons = [reason[:LONGEST_REASON] for reason in gate.reasons]
    lines = [f"**Gate: {gate.classification}.** Approval needed: {_plain(needed)}.", ""]
    lines += [f"- {_plain(reason)}" for reason in reasons]
    if drill != "none":
        lines += ["", f"**Fire drill: {_plain(drill)}. It is broken on purpose and must be caught.**"]
    return lines


def _purpose(contract: Contract) -> list[str]:
    return [
        "Probability that a card transaction is fraud, at the moment of the transaction: gradient-boosted "
        "trees, blended near the decision with a neural network, calibrated. The policy's bands turn it into "
        "approve, review, challenge or block; rules may be stricter. It is for transactions like those of "
        f"its source ({_plain(contract.description)}) and for no other decision about a person.",
    ]


def _data(evidence: Evidence, facts: FrameFacts, contract: Contract) -> list[str]:
    split = facts.split
    fit = (sum(found.get(role, 0) for role in FIT_ROLES) for found in (facts.rows, facts.positives))
    rows, positives = fit
    return [
        *_table(
            ("part", "days", "rows", "frauds"),
            [
                ("fitted", f"{split.fit_first} to {split.fit_last}", f"{rows:,}", f"{positives:,}"),
                (
                    "test",
                    f"{split.test_first} to {split.test_last}",
                    f"{facts.rows.get(TEST, evidence.rows):,}",
                    f"{evidence.positives:,}",
                ),
            ],
        ),
        "",
        f"Contract `{_plain(contract.name)}`, owner {_plain(contract.owner)}. Labels mature in "
        f"{contract.labels.maturity_days} days; as many lie between the parts. {len(facts.features)} "
        f"features of version `{facts.feature_version}`, each as it was known before its transaction. "
        f"Fitted on are all frauds, and of the good rows before the validation {facts.good_rows_per_fraud} "
        "for each fraud, weighted, where there are more.",
    ]


def _figures(evidence: Evidence, contract: Contract) -> list[str]:
    rows = [
        (
            each.name,
            with_interval(each.pr_auc, each.pr_auc_low, each.pr_auc_high),
            with_interval(each.roc_auc, each.roc_auc_low, each.roc_auc_high),
            number(each.card_precision),
            number(each.recall_at_fpr),
            number(each.ece),
        )
        for each in models_of(evidence)
    ]
    point = evidence.operating_point
    lines = _table(("model", "PR-AUC [95 %]", "ROC-AUC [95 %]", "CP@100", "recall at FPR", "ECE"), rows)
    if "chosen_threshold" in point:
        kept = "" if point["within_limits"] else " (none keeps the policy's limits)"
        cost, nothing = (
            money(point[f"{name}_cost_minor"], contract.currency) for name in ("chosen", "nothing_stopped")
        )
        lines += [
            "",
            f"Operating point{kept}: threshold {number(point['chosen_threshold'])}, "
            f"{point['chosen_fraud_caught']:.1%} of frauds at {point['chosen_false_positive_rate']:.2%} "
            f"false alarms, cost {cost}; nothing stopped costs {nothing}.",
        ]
    if saved := saved_text(evidence, contract.currency):
        lines += ["", saved]
    return lines


def _limits(evidence: Evidence, facts: FrameFacts, contract: Contract) -> list[str]:
    worst = [each for each in evidence.weeks if each.pr_auc is not None]
    lines = [
        f"- Judged on {evidence.rows:,} rows with {evidence.positives:,} frauds; the intervals say how far "
        "these figures carry.",
        "- A customer or terminal is known by its last 30 days. Stored features older than "
        f"{facts.ttl_hours:g} hours count as missing; those of a day are known "
        f"{facts.published_after_hours:g} hours after its end.",
        f"- Frauds that nobody reported within {contract.labels.maturity_days} days count as good.",
        "- Reasons and contributions explain the boosted trees, not the blend.",
    ]
    if worst:
        low = min(worst, key=lambda each: each.pr_auc or 0.0)
        lines.append(f"- Its weakest test week, from {low.first}: PR-AUC {number(low.pr_auc)}, "
                     f"{low.positives} frauds.")  # fmt: skip
    if evidence.champion_problem:
        lines.append(f"- The champion could not be rescored: {_plain(evidence.champion_problem)}")
    return lines


def _slices(evidence: Evidence) -> list[str]:
    rows = [
        (
            each.name,
            f"{each.positives:,} of {each.rows:,}",
            with_interval(each.pr_auc, each.pr_auc_low, each.pr_auc_high),
            with_interval(each.difference.value, each.difference.low, each.difference.high),
        )
        for each in evidence.slices
    ]
    return _table(("slice", "frauds", "PR-AUC [95 %]", "against the champion"), rows)


def _behaviour(evidence: Evidence) -> list[str]:
    tests = [
        (each.name, each.expected, "holds" if each.held else "does not hold", number(each.share_wrong))
        for each in evidence.behaviour
    ]
    checks = [
        (each.name, each.expected, "holds" if each.held else "does not hold", "")
        for each in evidence.leak_checks
    ]
    return _table(("test", "expected", "", "share of rows against it"), [*tests, *checks])


def _features(evidence: Evidence) -> list[str]:
    rows = [(each.feature, number(each.mean_absolute)) for each in evidence.contributions[:8]]
    return _table(("feature", "mean contribution, log-odds"), rows)


def _reproduce(facts: FrameFacts, commit: str) -> list[str]:
    return [
        f"Code `{commit}`; the versions of every table, seeds, winner and environment are in "
        f"`evidence/lineage.json`. The training frame (digest `{facts.digest[:16]}`) again, and the model:",
        "",
        f"    sluice rebuild_frame --day {facts.day} --run {facts.run}",
        "    sluice model reproduce VERSION",
    ]
