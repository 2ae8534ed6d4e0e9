"""The scoring service answers with the champion that it should: the last look of a promotion, or rollback.

In: the version. Out: a receipt with what the service says of itself.
Errors: SluiceError where the service cannot be asked, or follows another version after CONFIRM_SECONDS.
"""

from __future__ import annotations

import os
import time

import httpx
from pydantic import Field

from jobs.conf.settings import TOKEN, Settings
from jobs.core import JobParams, Receipt, SluiceError, Stopwatch
from jobs.serving.tokens import own_headers

READS: tuple[str, ...] = ("registry",)
WRITES: tuple[str, ...] = ("confirmation",)

CONFIRM_SECONDS = 10.0  # a service follows an alias within 5 s


class Params(JobParams):
    version: str = Field(
        "", pattern=r"^\d*$", description="version that must be the champion in service; empty: none"
    )


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    where = f"confirm_serving version {params.version}"
    while (champion := served_champion(settings, where) or "") != params.version:
        if watch.seconds > CONFIRM_SECONDS:
            raise SluiceError(
                f"{where}: {settings.scoring_uri} serves version {champion or 'none'} still; "
                f"its page {settings.scoring_uri}/state says why"
            )
        time.sleep(0.2)
    return Receipt(
        job="confirm_serving",
        table="confirmation",
        partition=params.version or "none",
        seconds=watch.seconds,
        facts={"champion": champion, "scoring_uri": settings.scoring_uri},
    )


def served_champion(settings: Settings, where: str) -> str | None:
    """The version that the scoring service answers with.

    Raises:
        SluiceError: the service cannot be asked.
    """
    headers = own_headers(os.environ.get(TOKEN, ""))
    try:
        answer = httpx.get(f"{settings.scoring_uri}/state", headers=headers, timeout=5.0)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise SluiceError(
            f"{where}: the scoring service at {settings.scoring_uri} cannot be asked ({error}); `make status`"
        ) from None
    champion: str | None = answer.json()["champion"]
    return champion
