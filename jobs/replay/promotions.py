"""A promotion in a replay: the jobs of fraud_promote in their order, at the times of the simulated clock.

In: a registered version, the instant. Out: what happened, and what is due next. Who approves is declared:
somebody called `replay`, policy.replay.approval_hours after being asked, always.
With policy.replay.promotion "direct" nothing is checked: the version serves at once, as where a script gives
the newest model all traffic.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import GateClosed, NothingToDo
from jobs.promotion import state as registry
from jobs.promotion.record import required_steps
from jobs.replay.agenda import Agenda, Due, Happening
from jobs.replay.data import run_job

APPROVER = "replay"


class Promotions:
    """The promotions of one installation."""

    def __init__(self, settings: Settings, agenda: Agenda) -> None:
        self.settings = settings
        self.policy = policy_of(settings)
        self.agenda = agenda
        self.client = registry.registry_client(settings)

    def handle(self, item: Due) -> list[Happening]:
        """Do what is due."""
        if item.kind == "offer":
            return self.offer(item)
        return self.approve(item) if item.kind == "approve" else self.look(item)

    def offer(self, item: Due) -> list[Happening]:
        """A version is there: what becomes of it depends on its gate and on who is under way."""
        version = item.version
        if self.policy.replay.promotion == "direct":
            return [self._take_over(version, item.at)]
        try:
            run_job(self.settings, "offer_version", {"version": version})
        except NothingToDo as nothing:
            return [Happening(at=item.at, what="not offered", version=version, detail=str(nothing))]
        try:
            checked = run_job(
                self.settings,
                "check_challenger",
                {"version": version, "promotion_id": f"replay-{version}"},
            )
        except GateClosed as closed:
            return [Happening(at=item.at, what="refused", version=version, detail=closed.verdict.reason)]
        gate = str(checked.facts["gate"])
        offered = Happening(at=item.at, what="offered", version=version, detail=gate)
        if checked.facts["needs_person"] and not checked.facts["approved"]:
            at = item.at + timedelta(hours=self.policy.replay.approval_hours)
            self.agenda.add(Due(at=at, kind="approve", version=version))
            return [offered]
        return [offered, *self._start(version, registry.SHADOW_STEP, item.at)]

    def approve(self, item: Due) -> list[Happening]:
        """A person has read the evidence."""
        try:
            run_job(
                self.settings,
                "record_approval",
                {"version": item.version, "person": APPROVER, "at": item.at.isoformat()},
            )
        except GateClosed as closed:
            return self._end(item.version, item.at, "approval", closed.verdict.reason)
        approved = Happening(at=item.at, what="approved", version=item.version, detail=APPROVER)
        return [approved, *self._start(item.version, registry.SHADOW_STEP, item.at)]

    def look(self, item: Due) -> list[Happening]:
        """Judge the running step: hold it, go on to the next, or roll back."""
        arguments = {"version": item.version, "step": item.step}
        try:
            judged = run_job(self.settings, "judge_step", arguments)
        except GateClosed as closed:
            return self._end(item.version, item.at, item.step, closed.verdict.reason, item.since)
        if judged.facts["outcome"] != "pass":
            self._look_again(item.version, item.step, item.since or item.at, item.at)
            return []
        passed = Happening(
            at=item.at,
            what="passed",
            version=item.version,
            detail=item.step,
            facts={"requests": judged.facts.get("challenger_requests", 0)},
        )
        return [passed, *self._after(item.version, item.step, item.at)]

    def _after(self, version: str, step: str, at: datetime) -> list[Happening]:
        champion, _ = registry.settled_champion(self.client, self.settings.model_name)
        steps = required_steps(self.policy, bool(champion))
        following = steps[steps.index(step) + 1 :]
        if following:
            return self._start(version, following[0], at)
        try:
            run_job(self.settings, "promote_champion", {"version": version})
        except GateClosed as closed:
            return self._end(version, at, "promote", closed.verdict.reason)
        return [
            Happening(at=at, what="champion", version=version, detail=f"in place of {champion or 'none'}")
        ]

    def _start(self, version: str, step: str, at: datetime) -> list[Happening]:
        try:
            started = run_job(self.settings, "start_step", {"version": version, "step": step})
        except GateClosed as closed:
            return self._end(version, at, step, closed.verdict.reason)
        if started.facts["outcome"] == "pass":
            return self._after(version, step, at)
        self._look_again(version, step, at, at)
        return [Happening(at=at, what="step", version=version, detail=step)]

    def _look_again(self, version: str, step: str, since: datetime, at: datetime) -> None:
        """The next look: when the step's time is up, and never later than a usual look."""
        usual = timedelta(minutes=self.policy.replay.look_minutes)
        over = since + timedelta(minutes=registry.minutes_of(step, self.policy))
        following = min(at + usual, over) if over > at else at + usual
        self.agenda.add(Due(at=following, kind="look", version=version, step=step, since=since))

    def _end(
        self, version: str, at: datetime, step: str, reason: str, since: datetime | None = None
    ) -> list[Happening]:
        """Take the version out of traffic, as the task roll_back does when a step has failed."""
        self.agenda.drop(version)
        arguments = {
            "version": version,
            "reason": f"{step}: {reason}"[:1000],
            "promotion_id": f"replay-{version}",
        }
        run_job(self.settings, "roll_back", arguments)
        hours = (at - since).total_seconds() / 3600 if since else None
        facts = {"step": step, "hours_in_step": hours}
        return [Happening(at=at, what="rolled back", version=version, detail=reason, facts=facts)]

    def _take_over(self, version: str, at: datetime) -> Happening:
        name = self.settings.model_name
        old = registry.read_aliases(self.client, name).get(registry.CHAMPION, "")
        registry.write_tags(self.client, name, version, {registry.TAG_PROMOTION: registry.COMPLETED})
        if old:
            registry.move_alias(self.client, name, registry.PREVIOUS, old)
        registry.move_alias(self.client, name, registry.CHAMPION, version)
        return Happening(at=at, what="champion", version=version, detail=f"in place of {old or 'none'}")

    def routing(self) -> registry.Routing:
        """Who serves now."""
        return registry.read_routing(self.client, self.settings.model_name)
