"""Job build_frame: matured transactions with their features as they were known, and their label.

In: label snapshot of the run, table transactions, feature tables (through Feast, strictly before the event).
    Transactions with available_at <= as_of, the instant after the run's day: a row that came later is not in.
Out: frame.parquet: transaction_id, event_time, customer_id, terminal_id, amount_minor, day, role,
    weight (rows that it stands for), is_fraud (the truth), training_label (what the models are fitted on;
    differs in a drill only) and the model's features as float32; frame.json with the split, counts, the leak
    check, the version of every table that was read, and the frame's digests. These versions are pinned as
    run.RUN before anything is read of them, so that rebuild_frame can make the same frame whenever asked.
Split by time, last matured day M: test = the last test_days; then an embargo of the label's maturity; then
    the fit rows, of which the last validation_days validate and, an embargo earlier, the rest tunes.
Rows: all that judge; of those that only fit models every fraud, and good_rows_per_fraud good ones for each,
    drawn by the run's seed and weighted (docs/decisions/0037-good-rows-are-drawn.md). None of the embargo:
    nobody asks for them.
Window: policy.training.window_days counts the days of the fit rows; embargo and test come on top.
Errors: NotEnoughData where there are too few days, a part of the split has no fraud or no row, or a day has
    no velocity features; SluiceError where one transaction id is published on two days; GateClosed where one
    feature alone tells the label (a leak until proved otherwise), or where the join lost or doubled a row.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
from pydantic import Field

from jobs.conf.contract import contract_of
from jobs.conf.policy import Training, policy_of
from jobs.conf.settings import Settings
from jobs.core import (
    Check,
    GateClosed,
    NotEnoughData,
    Outcome,
    Receipt,
    SluiceError,
    Stopwatch,
    StrictModel,
    Verdict,
    midnight,
)
from jobs.evaluation.labels import of_known_cards
from jobs.evaluation.transactions import known_transactions
from jobs.features.declarations import FEATURE_VERSION, MODEL_FEATURES
from jobs.features.history import historical_features
from jobs.features.tables import BUILT_TABLES
from jobs.lake.at import LakeAt, versions_of
from jobs.lake.pins import pin
from jobs.lake.store import lake_of
from jobs.training.digests import column_digests, frame_digest
from jobs.training.origin import ORIGIN_FILE, origin_of
from jobs.training.run_folder import DRILL_NOTE, Drill, RunFolder, TrainingParams

READS = ("label_snapshot", "transactions", "customer_features", "terminal_features", "transaction_velocity")
WRITES = ("training_frame",)

EVENT_COLUMNS = ["day", "transaction_id", "event_time", "customer_id", "terminal_id", "amount_minor"]
LEAK_AUC = 0.99  # an honest feature alone stays far below
LEAK_POSITIVES = 20  # fewer frauds among the rows with a value say nothing
TUNING, GAP, VALIDATION, EMBARGO, TEST = "tuning", "gap", "validation", "embargo", "test"
# rows of cards that were known to be compromised: fitted on, and nothing is judged by them
KNOWN_CARDS = {VALIDATION: "validation of known cards", TEST: "test of known cards"}
FITTED_ON = (TUNING, GAP)  # and judged by never
FIT_ROLES = (*FITTED_ON, VALIDATION, KNOWN_CARDS[VALIDATION])


class Params(TrainingParams):
    """Which run."""

    drill: Drill = Field("none", description=DRILL_NOTE)


class Split(StrictModel):
    """Days of each part, both ends included."""

    fit_first: date
    tuning_last: date
    validation_first: date
    fit_last: date
    test_first: date
    test_last: date

    def role(self, day: date) -> str:
        if day > self.fit_last:
            return TEST if day >= self.test_first else EMBARGO
        if day >= self.validation_first:
            return VALIDATION
        return TUNING if day <= self.tuning_last else GAP


class FrameFacts(StrictModel):
    """What later jobs need to know about the frame."""

    run: str
    day: date
    drill: str
    split: Split
    features: tuple[str, ...]
    feature_version: str
    rows: dict[str, int]
    positives: dict[str, int]
    leaks: dict[str, float]  # ROC-AUC of each feature alone
    ttl_hours: float  # a row of features serves an event for so long
    published_after_hours: float  # and is known only so long after its as_of
    known_card_days: int
    good_rows_per_fraud: int
    seed: int  # of the draw, and of the permutation in a drill
    label_digest: str
    table_versions: dict[str, int]
    digest: str
    column_digests: dict[str, str]


def split_days(last: date, training: Training, embargo_days: int) -> Split:
    """The split of the matured days that end with `last`."""
    test_first = last - timedelta(days=training.test_days - 1)
    fit_last = test_first - timedelta(days=embargo_days + 1)
    validation_first = fit_last - timedelta(days=training.validation_days - 1)
    return Split(
        fit_first=fit_last - timedelta(days=training.window_days - 1),
        tuning_last=validation_first - timedelta(days=embargo_days + 1),
        validation_first=validation_first,
        fit_last=fit_last,
        test_first=test_first,
        test_last=last,
    )


def days_needed(training: Training, embargo_days: int) -> int:
    """Fewest days of transactions for a split, the days that have not matured included."""
    return 1 + embargo_days + training.validation_days + embargo_days + training.test_days + embargo_days


def check_days(first: date, split: Split, training: Training, embargo_days: int) -> None:
    """There must be a day to tune on.

    Raises:
        SluiceError: the window of the policy is too short for the contract's maturity.
        NotEnoughData: the days that are there are too few for it.
    """
    if split.tuning_last < split.fit_first:
        raise SluiceError(
            f"training frame: training.window_days is {training.window_days} and must be at least "
            f"{training.validation_days + embargo_days + 1} for labels that mature in {embargo_days} days"
        )
    if split.tuning_last < first:
        there = (split.test_last - first).days + 1 + embargo_days
        raise NotEnoughData(
            f"training frame: {days_needed(training, embargo_days)} days of transactions are needed for a "
            f"training (labels mature in {embargo_days} days), there are {there}; ingest earlier days or "
            "train later"
        )


def check_ids(events: pd.DataFrame) -> None:
    """Each transaction is published once.

    Raises:
        SluiceError: an id is there twice.
    """
    twice = events[events["transaction_id"].duplicated(keep=False)]
    if not twice.empty:
        number = twice["transaction_id"].iloc[0]
        files = sorted({str(day) for day in twice.loc[twice["transaction_id"] == number, "file_day"]})
        raise SluiceError(
            f"training frame: {twice['transaction_id'].nunique()} transaction ids are published more than "
            f"once, e.g. {number} by the files of {' and '.join(files)}; run fraud_ingest for {files[-1]} "
            "again, that day alone: it quarantines what an earlier file has published"
        )


def roles(events: pd.DataFrame, split: Split, known_card_days: int) -> pd.Series:
    """The part of the split of each event, by its day and by what was known of its card.

    Args:
        events: day, customer_id, is_fraud, known_at.
    """
    role = events["day"].map({day: split.role(day) for day in events["day"].unique()})
    known = of_known_cards(events, events[events["is_fraud"] == 1], known_card_days)
    return role.where(~known, role.replace(KNOWN_CARDS))


def drawn(is_fraud: pd.Series, role: pd.Series, good_rows_per_fraud: int, seed: int) -> pd.Series:
    """The weight of each row; 0 where the frame goes without it: the embargo, good rows that were not drawn.

    Drawn are good rows that only fit models. Each stands for those that were left out, so that a model sees
    as many of them as there were. The rows, their order and the seed decide.
    """
    weight = (role != EMBARGO).astype(np.float32)
    fitted = role.isin(FITTED_ON)
    good = np.flatnonzero(fitted & (is_fraud != 1))
    wanted = good_rows_per_fraud * int((fitted & (is_fraud == 1)).sum())
    if 0 < wanted < len(good):
        weight.iloc[good] = 0.0
        weight.iloc[np.random.default_rng(seed).choice(good, wanted, replace=False)] = len(good) / wanted
    return weight


def with_training_labels(frame: pd.DataFrame, drill: str, seed: int) -> pd.DataFrame:
    """Add what the models are fitted on: the truth, or its permutation over the fit rows in the drill."""
    labels = frame["is_fraud"].to_numpy(copy=True)
    if drill == "shuffled_labels":
        fit = np.flatnonzero(frame["role"].isin(FIT_ROLES))
        labels[fit] = np.random.default_rng(seed).permutation(labels[fit])
    return frame.assign(training_label=labels)


def single_feature_auc(frame: pd.DataFrame, features: tuple[str, ...]) -> dict[str, float]:
    """ROC-AUC of each feature alone, in whichever direction it points.

    Twice, and the larger counts: over all rows with a gap ranking lowest (the gap itself may tell the label),
    and over the rows that have a value (gaps must not water down a leak).
    Source: Mann and Whitney 1947: the area is the share of pairs in which the fraud ranks higher, a tie being
    half of one. Only the good rows are sorted, and once for both.
    """
    truth = frame["is_fraud"].to_numpy() == 1
    sizes = int(truth.sum()), int((~truth).sum())
    result = {}
    for name in features:
        values = frame[name].to_numpy()
        there = ~np.isnan(values)
        frauds, good = values[truth & there], np.sort(values[~truth & there])
        pairs = sum(np.searchsorted(good, frauds, side=side).sum() for side in ("left", "right")) / 2
        lower = sizes[1] - len(good)  # good rows without a value
        above_gaps = lower * (len(frauds) + (sizes[0] - len(frauds)) / 2)
        areas = [(pairs + above_gaps) / (sizes[0] * sizes[1])]
        if len(frauds) >= LEAK_POSITIVES and len(good):
            areas.append(pairs / (len(frauds) * len(good)))
        result[name] = round(float(max(max(area, 1 - area) for area in areas)), 6)
    return result


def leak_verdict(areas: dict[str, float]) -> Verdict:
    """Fail if one feature alone separates fraud from the rest nearly perfectly."""
    return Verdict.of(
        [
            Check(
                name=f"leak_{name}",
                outcome=Outcome.FAIL if area > LEAK_AUC else Outcome.PASS,
                value=area,
                threshold=LEAK_AUC,
                detail=f"feature {name} alone has a ROC-AUC of {area:.4f}: it knows the label; "
                "find out when it became known"
                if area > LEAK_AUC
                else "",
            )
            for name, area in areas.items()
        ]
    )


def check_roles(frame: pd.DataFrame, split: Split) -> tuple[dict[str, int], dict[str, int]]:
    """Rows and frauds of each part.

    Raises:
        NotEnoughData: tuning, validation or test have no row, no fraud, or nothing but fraud.
    """
    groups = frame.groupby("role")["is_fraud"]
    rows = {str(role): int(count) for role, count in groups.size().items()}
    positives = {str(role): int(count) for role, count in groups.sum().items()}
    for role in (TUNING, VALIDATION, TEST):
        if not 0 < positives.get(role, 0) < rows.get(role, 0):
            raise NotEnoughData(
                f"training frame: the {role} rows have {positives.get(role, 0)} frauds among "
                f"{rows.get(role, 0)}; ingest more days or train later (split {split.model_dump_json()})"
            )
    return rows, positives


def check_join(events: pd.DataFrame, joined: pd.DataFrame) -> None:
    """Every transaction once, in its place, with every feature.

    Raises:
        GateClosed: the join dropped, doubled or moved a row.
    """
    missing = [name for name in MODEL_FEATURES if name not in joined.columns]
    same = len(joined) == len(events) and bool(
        (joined["transaction_id"].to_numpy() == events["transaction_id"].to_numpy()).all()
    )
    if same and not missing:
        return
    detail = f"column {missing[0]} is missing" if missing else f"{len(events)} rows in, {len(joined)} out"
    check = Check(name="join", outcome=Outcome.FAIL, detail=f"point-in-time join: {detail}")
    raise GateClosed(Verdict.of([check]), "build_frame")


def check_velocity(joined: pd.DataFrame) -> None:
    """Every transaction has the velocity features of its moment.

    Raises:
        NotEnoughData: some days were built when there were none, or were never delivered.
    """
    without = sorted(joined.loc[joined["velocity_missing"] == 1, "day"].unique())
    if without:
        raise NotEnoughData(
            f"training frame: transactions of {len(without)} days have no velocity features; run "
            f"`sluice build_features --day {without[0]} --last {without[-1]}` first"
        )


def make_frame(
    lake: LakeAt, labels: pd.DataFrame, split: Split, params: Params, seed: int, settings: Settings
) -> pd.DataFrame:
    """The frame of a split as of the end of the run's day, from tables at noted versions."""
    as_of = midnight(params.day + timedelta(days=1))
    found = known_transactions(lake, split.fit_first, split.test_last, as_of, [*EVENT_COLUMNS, "file_day"])
    events = found.to_pandas()
    check_ids(events)
    events = events.drop(columns="file_day")
    events = events.merge(labels, on="transaction_id", how="inner", validate="one_to_one")
    events = events.sort_values(["event_time", "transaction_id"], ignore_index=True)
    training = policy_of(settings).training
    role = roles(events, split, training.known_card_days)
    weight = drawn(events["is_fraud"], role, training.good_rows_per_fraud, seed)
    kept = weight > 0
    events = events[kept].reset_index(drop=True)
    versions = {table.name: lake.version(table) for table in BUILT_TABLES}
    joined = historical_features(events.drop(columns="known_at"), settings, versions)
    check_join(events, joined)
    check_velocity(joined)
    joined = joined.assign(role=role[kept].to_numpy(), weight=weight[kept].to_numpy())
    joined = with_training_labels(joined, params.drill, seed)
    joined[list(MODEL_FEATURES)] = joined[list(MODEL_FEATURES)].astype(np.float32)
    return joined


def run(params: Params, settings: Settings) -> Receipt:
    watch = Stopwatch()
    folder = RunFolder(settings, params.run)
    labels = folder.read_frame("labels.parquet", ["transaction_id", "is_fraud", "known_at"])
    snapshot = folder.read_facts("labels.json")
    policy, maturity = policy_of(settings), contract_of(settings).labels.maturity_days
    split = split_days(date.fromisoformat(snapshot["last"]), policy.training, maturity)
    check_days(date.fromisoformat(snapshot["first"]), split, policy.training, maturity)
    lake = lake_of(settings)
    # versions first, then data: what is written meanwhile is in none of the frame's columns
    versions = snapshot["table_versions"] | versions_of(lake, BUILT_TABLES)
    pin(lake, f"run.{params.run}", versions)
    seed = policy.training.seeds[0]
    frame = make_frame(LakeAt(lake, versions), labels, split, params, seed, settings)
    rows, positives = check_roles(frame, split)
    areas = single_feature_auc(frame, MODEL_FEATURES)
    digests = column_digests(frame)
    facts = FrameFacts(
        run=params.run,
        day=params.day,
        drill=params.drill,
        split=split,
        features=MODEL_FEATURES,
        feature_version=FEATURE_VERSION,
        rows=rows,
        positives=positives,
        leaks=areas,
        ttl_hours=policy.features.batch_ttl_hours,
        published_after_hours=contract_of(settings).published_after_hours,
        known_card_days=policy.training.known_card_days,
        good_rows_per_fraud=policy.training.good_rows_per_fraud,
        seed=seed,
        label_digest=snapshot["digest"],
        table_versions=versions,
        digest=frame_digest(digests),
        column_digests=digests,
    )
    folder.write_facts("frame.json", facts)
    folder.write_facts(ORIGIN_FILE, origin_of(settings))
    verdict = leak_verdict(areas)
    if verdict.outcome is not Outcome.PASS:
        raise GateClosed(verdict, f"build_frame, run {params.run}")
    folder.write_frame("frame.parquet", frame)
    return Receipt(
        job="build_frame",
        table="training_frame",
        partition=params.run,
        rows=len(frame),
        digest=facts.digest,
        seconds=watch.seconds,
        facts={"rows": rows, "positives": positives, "drill": params.drill},
    )


def fit_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that a final model is fitted on, from all days before the embargo of the test."""
    return frame[frame["role"].isin(FIT_ROLES)]


def role_rows(frame: pd.DataFrame, role: str) -> pd.DataFrame:
    """The rows of one part of the split."""
    return frame[frame["role"] == role]


def matrix_of(rows: pd.DataFrame, features: tuple[str, ...]) -> np.ndarray:
    """The model's input, float32 [rows, features], NaN where a value is missing."""
    return np.ascontiguousarray(rows[list(features)].to_numpy(dtype=np.float32))
