"""Looking again and again: evidence that holds at every look, and planned looks that spend alpha.

Two ways, one budget. What is counted (errors, disputes, decisions) is judged by an e-process, which may be
looked at after every request. What is estimated (quantiles, PSI, shares) is judged at planned looks only:
look k is at the first `look_size(k)` requests of the challenger, whenever somebody asks, so that its number
follows from the log alone and survives every restart.
Sources: Ville 1939 and Robbins 1970 for the mixture; Lan and DeMets 1983 for spending by information.
"""

from __future__ import annotations

from math import ceil, inf, log

from scipy import special

FIRST_LOOK = 20  # requests of the challenger; fewer say nothing about latency or scores
GROWTH = 1.25  # each look has a quarter more requests than the one before


def look_size(number: int) -> int:
    """Requests of the challenger at the planned look `number`, counted from 1."""
    return ceil(FIRST_LOOK * GROWTH ** (number - 1))


def look_number(requests: int) -> int:
    """The latest planned look that so many requests have reached; 0 before the first."""
    if requests < FIRST_LOOK:
        return 0
    number = max(1, int(log(requests / FIRST_LOOK) / log(GROWTH)))
    while look_size(number + 1) <= requests:
        number += 1
    return number


def spent_at(number: int, alpha: float) -> float:
    """What look `number` may spend: alpha / (k (k + 1)), which sums to alpha over all looks there can be."""
    return alpha / (number * (number + 1))


def log_evidence(successes: int, trials: int, share: float) -> float:
    """Log of the evidence that the share of successes is above `share`, valid at every number of trials.

    The mixture of likelihood ratios over all shares above, weighted evenly. Where the true share is at most
    `share`, the chance that it ever exceeds 1 / alpha is at most alpha (Ville's inequality).
    """
    if not 0.0 < share < 1.0 or trials == 0:
        return -inf
    first, second = successes + 1.0, trials - successes + 1.0
    above = float(special.betaincc(first, second, share))
    if above <= 0.0:
        return -inf
    mixture = float(special.betaln(first, second)) + log(above) - log(1.0 - share)
    return mixture - successes * log(share) - (trials - successes) * log(1.0 - share)


def is_proven(successes: int, trials: int, share: float, alpha: float) -> bool:
    """Whether the share of successes is above `share`, at a chance of at most alpha over all looks."""
    return log_evidence(successes, trials, share) > log(1.0 / alpha)
