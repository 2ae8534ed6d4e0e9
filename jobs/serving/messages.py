"""What goes in and out over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from jobs.serving.bundle import Decision

Variant = Literal["champion", "canary", "rules"]
LARGEST = 2**63 - 1
Identifier = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]


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

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "transaction_id": 1,
                    "event_time": "2026-01-31T12:00:00Z",
                    "customer_id": 17,
                    "terminal_id": 4,
                    "amount_minor": 4999,
                }
            ]
        },
    )

    transaction_id: Identifier
    event_time: Moment
    customer_id: Identifier
    terminal_id: Identifier
    amount_minor: Annotated[
        int, Field(strict=True, ge=0, le=LARGEST, description="integer minor units, e.g. cents")
    ]


class ScoreAnswer(BaseModel):
    """The decision, and what it rests on."""

    model_config = ConfigDict(protected_namespaces=())

    request_id: str
    transaction_id: int
    score: float | None = Field(description="calibrated probability of fraud; null by rules alone")
    decision: Decision
    rule: str = Field(description="the rule that decided, or why there is no score; else empty")
    model_version: str | None
    variant: Variant


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
