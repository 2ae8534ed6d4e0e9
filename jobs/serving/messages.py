"""What goes in and out over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from jobs.serving.bundle import Decision

Variant = Literal["champion", "canary", "holdout", "rules"]
LARGEST = 2**63 - 1
Identifier = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]

TRANSACTION: dict[str, Any] = {
    "transaction_id": 1,
    "event_time": "2026-01-31T12:00:00Z",
    "customer_id": 17,
    "terminal_id": 4,
    "amount_minor": 4999,
}
ANSWER: dict[str, Any] = {
    "request_id": "6f1c0a52b7cf4b0f9a3c5f0f2f6d1c11",
    "transaction_id": 1,
    "score": 0.0312,
    "decision": "approve",
    "rule": "",
    "model_version": "3",
    "variant": "champion",
    "degraded": "",
}
RULES_ANSWER = ANSWER | {
    "score": None,
    "rule": "features_unavailable",
    "model_version": None,
    "variant": "rules",
    "degraded": "features_unavailable",
}
EXPLANATION: dict[str, Any] = {
    "transaction_id": 1,
    "score": 0.9312,
    "decision": "block",
    "rule": "",
    "model_version": "3",
    "variant": "champion",
    "method": "tree_shap",
    "base": -4.61,
    "margin": 2.58,
    "reasons": [
        {
            "code": "AMOUNT_Z_SCORE_30D",
            "feature": "amount_z_score_30d",
            "value": 7.5,
            "contribution": 3.1,
            "text": "amount minus the customer's mean of 30 days, over the deviation (at least 1): 7.5; "
            "raises the score",
        }
    ],
}


def _text_to_utc(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("must be a text in ISO 8601, e.g. 2026-01-31T12:00:00Z")  # noqa: TRY004
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not a moment in ISO 8601: {error}") from None


Moment = Annotated[
    datetime,
    BeforeValidator(_text_to_utc),
    Field(description="ISO 8601; UTC where no offset is given"),
]


class ScoreRequest(BaseModel):
    """One transaction to score."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [TRANSACTION]})

    transaction_id: Identifier
    event_time: Moment
    customer_id: Identifier
    terminal_id: Identifier
    amount_minor: Annotated[
        int, Field(strict=True, ge=0, le=LARGEST, description="integer minor units, e.g. cents")
    ]


class ScoreAnswer(BaseModel):
    """The decision, and what it rests on."""

    model_config = ConfigDict(protected_namespaces=(), json_schema_extra={"examples": [ANSWER, RULES_ANSWER]})

    request_id: str
    transaction_id: int
    score: float | None = Field(description="calibrated probability of fraud; null by rules alone")
    decision: Decision
    rule: str = Field(description="the rule that decided, or why there is no score; else empty")
    model_version: str | None
    variant: Variant = Field(description="who answered; holdout: a block that was let through on purpose")
    degraded: str = Field(description="why the answer rests on less than usual; empty where it does not")


class BatchRequest(BaseModel):
    """Transactions to score one after the other; what the policy allows at most is in the documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"transactions": [TRANSACTION]}]}
    )

    transactions: list[ScoreRequest] = Field(min_length=1)


class BatchAnswer(BaseModel):
    """The answers of a batch, in the order of its transactions."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"answers": [ANSWER]}]})

    answers: list[ScoreAnswer]


class Reason(BaseModel):
    """What one feature adds to a score."""

    code: str = Field(description="for machines: the feature's name in capitals")
    feature: str
    value: float | None = Field(description="null where it is missing")
    contribution: float = Field(description="in log-odds of the raw score; above 0 it raises the score")
    text: str


class Explanation(BaseModel):
    """A transaction's score and what moved it most; nothing is recorded or logged."""

    model_config = ConfigDict(protected_namespaces=(), json_schema_extra={"examples": [EXPLANATION]})

    transaction_id: int
    score: float
    decision: Decision = Field(description="of rules and model together, without the holdout")
    rule: str = Field(description="the rule that decides; empty where the model does")
    model_version: str
    variant: Literal["champion", "canary"]
    method: Literal["tree_shap", "occlusion"] = Field(
        description="exact Shapley values of the trees; or how the score moves when a feature goes missing"
    )
    base: float = Field(description="log-odds of the score before any feature is known")
    margin: float = Field(description="log-odds of the raw score, before calibration and blending")
    reasons: list[Reason] = Field(description="the largest contributions, the largest first")


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str


class Place(BaseModel):
    """One thing that is wrong in a request."""

    type: str
    loc: list[str | int] = Field(description="where: body, the row of a batch, the field")
    msg: str


class Invalid(BaseModel):
    """Everything that is wrong in a request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "detail": [
                        {
                            "type": "greater_than_equal",
                            "loc": ["body", "transactions", 3, "amount_minor"],
                            "msg": "Input should be greater than or equal to 0",
                        }
                    ]
                }
            ]
        }
    )

    detail: list[Place]


class ServedRouting(BaseModel):
    """Who answers now, and how the service is."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    champion: str | None
    challenger: str | None
    step: str
    percent: int
    alerts: list[str]
    feature_version: str
    registry_error: str = Field(description="why the registry could not be read last; else empty")
    registry_polls: int
    answers: dict[str, int]
    shadow_dropped: int
    log: dict[str, int | str]
    uptime_seconds: float
