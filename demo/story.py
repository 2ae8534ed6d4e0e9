"""The order of events: what is shown, one stage after the other."""

from __future__ import annotations

from demo.chain import Chain, say
from jobs.core import SluiceError

QUIET_DAYS = 12  # days that are watched when nothing is expected to happen
MOST_RETRAININGS = 5


def tell(chain: Chain) -> None:
    """The whole demo.

    Raises:
        SluiceError: something ended otherwise than it must, e.g. a bad version was promoted.
    """
    chain.backfill()
    chain.repair_feed()
    chain.wait_features()
    first = chain.train("the first model")
    must(chain.gate(first) != "blocked", f"the gate blocked the first version {first}")
    must(chain.promote(first) == "success", f"the first version {first} did not become champion")
    offer_shuffled_labels(chain)
    better = watch(chain)
    must(bool(better) or chain.plan.calm, "no better version came out of the trainings, so none was promoted")
    if better:
        offer_slow_version(chain)
        must(chain.promote(better) == "success", f"version {better} was not promoted")
        must(chain.registry.aliases()["champion"] == better, f"champion is not version {better}")
    run = chain.airflow.trigger("fraud_score", {"day": str(chain.played)})
    must(chain.airflow.wait_run("fraud_score", run)["state"] == "success", "fraud_score failed")


def offer_shuffled_labels(chain: Chain) -> None:
    """A version that has learnt nothing: blocked by its gate, refused when it is offered all the same."""
    version = chain.train("fire drill: trained on shuffled labels", drill="shuffled_labels")
    must(chain.gate(version) == "blocked", f"version {version}, trained on shuffled labels, was not blocked")
    run = chain.offer(version)
    state = chain.airflow.wait_run("fraud_promote", run)["state"]
    must(state == "failed", f"version {version}, which the gate blocked, was not refused")
    reason = chain.registry.tags(version).get("sluice.promotion_reason", "")
    say(f"version {version} is refused: {reason[:120]}")


def offer_slow_version(chain: Chain) -> None:
    """A version with good evidence that misbehaves live: caught in its canary and rolled back.

    It is offered by hand, and the better version that waits for traffic makes room for it.
    """
    champion = chain.registry.aliases()["champion"]
    version = chain.train("fire drill: good evidence, slow when served", drill="slow")
    must(
        chain.gate(version) != "blocked", f"the gate blocked the slow version {version}: nothing to roll back"
    )
    must(chain.promote(version) == "failed", f"the slow version {version} survived its canary")
    must(chain.registry.aliases()["champion"] == champion, "the rollback lost the champion")


def watch(chain: Chain) -> str:
    """Days go by until the monitor has asked for a model that is clearly better; gives it, or ''.

    A simulated pattern is learnt once enough of it was seen, so whoever decides waits for that. On a source
    without a new pattern nothing needs to happen: after some days a model is trained by hand where the plan
    has days left for its promotion.
    """
    retrainings = 0
    quiet_until = chain.played.toordinal() + QUIET_DAYS
    while chain.has_next_day() and retrainings < MOST_RETRAININGS:
        if chain.plan.pattern_from is None and chain.played.toordinal() >= quiet_until:
            break
        known = {run["dag_run_id"] for run in chain.airflow.runs("fraud_train")}
        decision = chain.play_day()
        if decision["facts"]["decision"] != "retrain":
            continue
        retrainings += 1
        must(chain.plan.pattern_from is not None or not chain.plan.simulated, "retraining without a reason")
        version = chain.trained(chain.retraining_of(decision, known))
        gate = chain.gate(version)
        if gate == "automatic" or (gate != "blocked" and not chain.plan.simulated):
            return version
        if gate != "blocked":
            chain.decline(version)
            say(f"version {version} is declined by a person: it is not clearly better yet")
    if chain.plan.simulated:
        must(chain.plan.pattern_from is None, "the new fraud pattern led to no better model")
        return ""
    version = chain.train("by hand: the monitor saw no reason, and newer data are there")
    return version if chain.gate(version) != "blocked" else ""


def must(holds: bool, otherwise: str) -> None:
    """Stop the demo with a sentence where it did not show what it is there to show."""
    if not holds:
        raise SluiceError(f"the demo failed: {otherwise}")
