"""Promotions over HTTP: real services under load, the promotion's own jobs, looked at as its DAG looks.

In: a world with a champion, and a version. Out: a `Story`: how far the version came, why it stopped, and
how long customers stayed with it after the log held enough to decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from jobs.conf.policy import policy_of
from jobs.conf.settings import Settings
from jobs.core import GateClosed, Outcome
from jobs.lake.store import lake_of
from jobs.lake.tables import PREDICTIONS
from jobs.promotion import check, evidence, judge_step, promote, roll_back, start_step
from jobs.promotion import state as registry
from jobs.promotion.look import StepEvidence
from jobs.promotion.verdict import judge
from jobs.serving.bundle import ModelBundle
from jobs.serving.bundles import fetch_bundle
from tests.faults.load import Load
from tests.faults.servers import World, not_logged, wait_until
from tests.faults.versions import Fault, crown, graph, offer, rows_by_day

STEP_SECONDS = 60.0  # a step that is not decided by then hangs
BACK_SECONDS = 10.0  # from the first deciding sample to the last answer of a bad version
FOLLOW_SECONDS = 5.0  # within which every replica follows the registry
GRAIN = 0.25  # seconds between two cuts of the evidence
RATE = 100.0
GOOD = {
    "identical": 0.0,
    "better": 0.6,
}  # by how much, in log-odds, it tells apart what the champion does not


@dataclass(frozen=True)
class Story:
    """One promotion over HTTP."""

    version: str
    outcome: str  # completed, rolled_back or refused
    step: str  # where it stopped
    reason: str
    decided: float  # when the first look said so, seconds since the epoch
    problems: tuple[str, ...] = ()
    seconds_back: float = 0.0  # from the first deciding sample to the last answer of the version


def promoted(settings: Settings, version: str, at_step: Callable[[str], None] = lambda step: None) -> Story:
    """Offer a version and lead it through its steps, as the tasks of the promotion's DAG do."""
    policy = policy_of(settings)
    step = "check"
    try:
        check.run(check.Params(version=version), settings)
        for step in registry.steps_of(policy):
            start_step.run(start_step.Params(version=version, step=step), settings)
            at_step(step)
            judged(settings, version, step, policy.canary.poll_seconds)
        step = "promote"
        promote.run(promote.Params(version=version), settings)
    except GateClosed as closed:
        outcome = "refused" if step == "check" else "rolled_back"
        return Story(version, outcome, step, str(closed), time.time())
    return Story(version, "completed", step, "", time.time())


def judged(settings: Settings, version: str, step: str, poll_seconds: float) -> None:
    """Look until the step is decided."""
    deadline = time.monotonic() + STEP_SECONDS
    while True:
        found = judge_step.run(judge_step.Params(version=version, step=step), settings)
        if found.facts["outcome"] == Outcome.PASS.value:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{step} is undecided after {STEP_SECONDS:g} s: {found.facts['reason']}")
        time.sleep(poll_seconds)


def settle(ours: World) -> tuple[str, str]:
    """A champion and the one before it, served by every replica."""
    first = crown(ours.settings, ours.folder, graph())
    second = crown(ours.settings, ours.folder, graph())
    followed(ours, champion=second)
    return first, second


def followed(ours: World, seconds: float = FOLLOW_SECONDS, **wanted: object) -> float:
    """How long it took until every replica said so of itself."""
    return wait_until(
        lambda: all(state[name] == value for state in ours.states() for name, value in wanted.items()),
        seconds,
        f"not every replica has {wanted}",
    )


def bad_canary(ours: World, fault: Fault, champion: str, *, always: bool = False) -> Story:
    """A version that is bad by night, which begins with its first customers; or one that is always bad."""
    version = offer(ours.settings, ours.folder, graph(fault, always=always))
    with Load(ours.addresses, rate=RATE, first=time.time_ns() // 1_000_000) as load:

        def at_step(step: str) -> None:
            load.night = step != registry.SHADOW_STEP

        try:
            story = promoted(ours.settings, version, at_step)
        except AssertionError as error:
            roll_back.run(roll_back.Params(version=version, reason="undecided"), ours.settings)
            return Story(version, "undecided", "", str(error), time.time(), (f"{fault}: {error}",))
        time.sleep(FOLLOW_SECONDS)
        wait_until(
            lambda: bool(load.exchanges(since=story.decided + FOLLOW_SECONDS)), 10, "the load has ended"
        )
        time.sleep(1.0)
    problems = []
    if story.outcome == "completed":
        problems.append(f"{fault}: version {version} was promoted")
    exchanges = load.exchanges()
    missing = not_logged(ours.settings, exchanges)
    problems += [f"{fault}: {len(missing)} answers are not in the log"] if missing else []
    seconds, late = time_to_champion(ours.settings, story)
    if late:
        problems.append(f"{fault}: {late} requests to version {version} after it was taken out of traffic")
    if seconds > BACK_SECONDS:
        problems.append(f"{fault}: {seconds:.1f} s from the first deciding sample to the champion")
    problems += [f"{fault}: lost: {each.trouble}" for each in exchanges if each.lost]
    problems += [f"{fault}: {problem}" for problem in champion_is_whole(ours, champion)]
    return replace(story, seconds_back=seconds, problems=tuple(problems))


def time_to_champion(settings: Settings, story: Story) -> tuple[float, int]:
    """Seconds from the first deciding sample to the version's last request, and requests that came too late.

    From the log: a canary that raises is asked, and another version answers in its place.
    """
    columns = ["model_version", "variant", "served_at"]
    rows = lake_of(settings).read(PREDICTIONS, columns=columns).to_pylist()
    asked = [
        row["served_at"].timestamp()
        for row in rows
        if row["model_version"] == story.version and row["variant"] != "shadow"
    ]
    late = sum(at > story.decided + FOLLOW_SECONDS for at in asked)
    if not asked:
        return 0.0, late
    return max(max(asked) - first_decided(settings, story), 0.0), late


def first_decided(settings: Settings, story: Story) -> float:
    """When the rows that were answered by then were the first on which the verdict is fail."""
    whole, started = evidence_of(settings, story)
    policy = policy_of(settings)
    cut = 0.0
    while cut < whole.elapsed_minutes * 60:
        cut += GRAIN
        part = replace(
            whole,
            elapsed_minutes=cut / 60,
            challenger=whole.challenger[whole.challenger["seconds"] <= cut],
            champion=whole.champion[whole.champion["seconds"] <= cut],
        )
        if judge(part, policy).outcome is Outcome.FAIL:
            return started.timestamp() + cut
    raise AssertionError(
        f"no look says why version {story.version} was rolled back at {story.step}: {story.reason}"
    )


def evidence_of(settings: Settings, story: Story) -> tuple[StepEvidence, datetime]:
    """All evidence of the step in which a version was rolled back."""
    client, name = registry.registry_client(settings), settings.model_name
    state = registry.read_version(client, name, story.version)
    assert state is not None
    started = datetime.fromisoformat(state.tag(registry.TAG_STEP_STARTED_AT))
    champion = registry.read_version(client, name, registry.read_aliases(client, name)[registry.CHAMPION])
    rows = evidence.gather(
        settings,
        state=state,
        champion=champion,
        step=story.step,
        step_started=started,
        promotion_started=state.registered_at,
        now=datetime.fromtimestamp(story.decided, tz=started.tzinfo),
    )
    return rows, started


def champion_is_whole(ours: World, champion: str) -> list[str]:
    """What is wrong with who serves now, and with the way back to the champion before."""
    problems = []
    for state in ours.states():
        if state["champion"] != champion or state["challenger"] or state["percent"]:
            problems.append(f"a replica serves {state['champion']} beside {state['challenger']}")
    client = registry.registry_client(ours.settings)
    previous = registry.read_aliases(client, ours.settings.model_name).get(registry.PREVIOUS)
    if previous is None:
        return [*problems, "alias previous is gone"]
    scores = ModelBundle.load(fetch_bundle(ours.settings, previous)).score(rows_by_day(5).to_numpy())
    if not ((scores >= 0) & (scores <= 1)).all():
        problems.append(f"the champion before, version {previous}, does not score")
    return problems


def good_canary(ours: World, kind: str) -> Story:
    """The champion once more, or a version that is a little better, goes through all steps under load."""
    version = offer(ours.settings, ours.folder, graph(finer=GOOD[kind]))
    with Load(ours.addresses, rate=RATE, first=time.time_ns() // 1_000_000) as load:
        try:
            story = promoted(ours.settings, version)
        except AssertionError as error:
            roll_back.run(roll_back.Params(version=version, reason="undecided"), ours.settings)
            return Story(version, "undecided", "", str(error), time.time(), (f"{kind}: {error}",))
        time.sleep(1.0)
    problems = [f"{kind}: lost: {each.trouble}" for each in load.exchanges() if each.lost]
    if story.outcome != "completed":
        problems.append(f"{kind}: {story.outcome} at {story.step}: {story.reason}")
    return replace(story, problems=tuple(problems))


def way_back(ours: World) -> tuple[list[str], float]:
    """Take the champion back by one command: the one before serves, with nothing loaded anew."""
    client, name = registry.registry_client(ours.settings), ours.settings.model_name
    aliases = registry.read_aliases(client, name)
    before, champion = aliases[registry.PREVIOUS], aliases[registry.CHAMPION]
    with Load(ours.addresses, rate=RATE, first=time.time_ns() // 1_000_000) as load:
        time.sleep(1.0)
        roll_back.run(roll_back.Params(version=champion, reason="by hand"), ours.settings)
        taken = time.time()
        seconds = followed(ours, FOLLOW_SECONDS * 4, champion=before)
        time.sleep(1.0)
    exchanges = load.exchanges()
    problems = [f"lost: {each.trouble}" for each in exchanges if each.lost]
    late = [each for each in exchanges if each.sent > taken + seconds and not each.lost]
    problems += [
        f"version {each.answer['model_version']} answered after the way back"
        for each in late
        if each.answer["model_version"] != before
    ]
    return problems, seconds
