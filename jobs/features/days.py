"""The days that a job of features works on: the one asked for, and those built again because of it."""

from __future__ import annotations

from datetime import date

from pydantic import Field, model_validator

from jobs.core import DayParams


class SeveralDays(DayParams):
    """One day, or the days that build_features names in its receipt."""

    days: str = Field(
        default="",
        description="all days that build_features built, as YYYY-MM-DD,YYYY-MM-DD; empty: only `day`",
    )

    @model_validator(mode="after")
    def _days_are_days(self) -> SeveralDays:
        found = [_exact_day(text) for text in self.days.split(",")] if self.days else [self.day]
        if len(set(found)) < len(found):
            raise ValueError(f"days {self.days!r} names a day twice")
        if self.day not in found:
            raise ValueError(f"days {self.days!r} leaves out the day {self.day}")
        return self

    def ascending(self) -> list[date]:
        """Every day of the call, in order."""
        return sorted(date.fromisoformat(text) for text in self.days.split(",")) if self.days else [self.day]


def _exact_day(text: str) -> date:
    """Python reads further ISO forms, such as 20260131; one day has one name here."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or str(found) != text:
        raise ValueError(f"days holds {text!r}, which is no day as YYYY-MM-DD")
    return found
