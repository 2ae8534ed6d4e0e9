"""The tables on S3: against a server that checks signatures and honours conditional writes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from jobs.conf.settings import Settings, load_settings
from jobs.core import SluiceError
from jobs.lake import lease, store
from jobs.lake.lease import Lease, leased, require_held
from jobs.lake.storage import WrittenMeanwhile, spark_address, storage_options
from jobs.lake.store import Lake, content_digest, lake_of
from jobs.lake.tables import MERGED_LABELS, PREDICTIONS, TRANSACTIONS
from jobs.objects import Objects
from jobs.s3_address import s3_address
from tests.cutting_proxy import cutting_proxy
from tests.lake_server import BUCKET, LakeServer, serve_lake
from tests.s3_server import serve_s3

DAY, NEXT = date(2026, 1, 5), date(2026, 1, 6)
ADDRESS = f"s3://{BUCKET}/sluice/tables"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LakeServer]:
    with serve_lake(tmp_path_factory.mktemp("versitygw")) as running:
        yield running


@pytest.fixture
def address(server: LakeServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address of its own for each test, and the credentials in the environment."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return f"{ADDRESS}/{request.node.name.split('[')[0]}"


def merged(day: date, rows: int, digest: str = "a") -> pa.Table:
    row = {"day": day, "digest": digest, "rows": rows}
    return pa.Table.from_pylist([row], schema=MERGED_LABELS.schema)


def bulky(day: date, count: int) -> pa.Table:
    """Rows that do not compress, so that their upload takes many packets."""
    row = dict.fromkeys(PREDICTIONS.schema.names) | {"day": day}
    rows = [row | {"request_id": os.urandom(30).hex(), "variant": "champion"} for _ in range(count)]
    return pa.Table.from_pylist(rows, schema=PREDICTIONS.schema)


# -- addresses and credentials ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["s3://lake", "s3://lake/", "s3://lake/a/b", "s3://lake/a/b/", "s3://lake-1.x/a_b/2026"]
)
def test_a_lake_address_is_a_bucket_and_a_prefix_of_plain_names(address: str) -> None:
    assert load_settings({"SLUICE_LAKE_URI": address}).lake == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    ["/folder", "lake", "s3://", "s3://L/a", "s3://lake/../x", "s3://lake/a//b", "s3://lake/a b",
     "s3://lake/a'b", "s3://key:hidden@lake/a", "s3://lake/a?secret=hidden", "s3a://lake/a"],
)  # fmt: skip
def test_any_other_lake_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(SluiceError, match="SLUICE_LAKE_URI") as refused:
        load_settings({"SLUICE_LAKE_URI": address})
    assert "hidden" not in str(refused.value)


def test_an_empty_address_is_the_folder_of_the_installation(home: Settings) -> None:
    assert home.lake == str(home.home / "lake")
    assert storage_options(home.lake) is None
    assert spark_address(home.lake) == home.lake


def test_the_lake_goes_nowhere_without_credentials(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for call in (Lake(address).version, Lake(address).read, Lake(address).partitions):
        with pytest.raises(SluiceError, match="no credentials; set AWS_SECRET_ACCESS_KEY"):
            call(TRANSACTIONS)
    with pytest.raises(SluiceError, match="no credentials"):
        Lake(address).replace(MERGED_LABELS, merged(DAY, 1), DAY)


def test_rows_do_not_cross_a_network_unencrypted_unless_told(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example")
    with pytest.raises(SluiceError, match="unencrypted"):
        Lake(address).version(TRANSACTIONS)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert (storage_options(address) or {})["AWS_ALLOW_HTTP"] == "true"


# -- reading and writing ------------------------------------------------------------------------------------


def test_a_table_on_s3_reads_and_writes_as_in_a_folder(address: str, tmp_path: Path) -> None:
    lakes = [Lake(address), Lake(tmp_path)]
    for lake in lakes:
        assert lake.version(MERGED_LABELS) == -1
        assert not lake.exists(MERGED_LABELS)
        assert lake.partitions(MERGED_LABELS) == []
        assert lake.read(MERGED_LABELS).num_rows == 0
        assert lake.replace(MERGED_LABELS, merged(DAY, 1), DAY) == 1
        assert lake.replace(MERGED_LABELS, merged(NEXT, 2), NEXT) == 2
        assert lake.replace(MERGED_LABELS, merged(DAY, 3), DAY) == 3
        lake.append(MERGED_LABELS, merged(NEXT, 4))
        assert lake.version(MERGED_LABELS) == 4
        assert lake.partitions(MERGED_LABELS) == [str(DAY), str(NEXT)]
        assert sorted(lake.read(MERGED_LABELS, version=2)["rows"].to_pylist()) == [1, 2]
        assert sorted(lake.read(MERGED_LABELS, first=NEXT)["rows"].to_pylist()) == [2, 4]
    assert content_digest(lakes[0].read(MERGED_LABELS)) == content_digest(lakes[1].read(MERGED_LABELS))


# -- what goes wrong ----------------------------------------------------------------------------------------


def test_a_wrong_key_is_refused_in_one_sentence_without_the_key(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Lake(address).replace(MERGED_LABELS, merged(DAY, 1), DAY)
    right, wrong = os.environ["AWS_SECRET_ACCESS_KEY"], "wrong-but-secret-0123456789"
    for name, value in (("AWS_SECRET_ACCESS_KEY", wrong), ("AWS_ACCESS_KEY_ID", "nobodys-key-0123")):
        with monkeypatch.context() as other, caplog.at_level(logging.DEBUG, "sluice"):
            other.setenv(name, value)
            texts = []
            for call in (Lake(address).version, Lake(address).read):
                with pytest.raises(SluiceError, match="access denied") as refused:
                    call(MERGED_LABELS)
                texts.append(str(refused.value))
            with pytest.raises(SluiceError, match="access denied") as refused:
                Lake(address).replace(MERGED_LABELS, merged(DAY, 2), DAY)
            texts.append(str(refused.value))
        for text in [*texts, caplog.text]:
            for hidden in (right, wrong, "nobodys-key-0123", "StringToSign", "Signature="):
                assert hidden not in text
            assert "\n" not in text or text is caplog.text
    assert Lake(address).read(MERGED_LABELS)["rows"].to_pylist() == [1]


def test_a_missing_bucket_is_named(address: str) -> None:
    lake = Lake(address.replace(BUCKET, "nowhere", 1))
    with pytest.raises(SluiceError, match="there is no bucket nowhere"):
        lake.read(MERGED_LABELS)
    with pytest.raises(SluiceError, match="there is no bucket nowhere"):
        lake.replace(MERGED_LABELS, merged(DAY, 1), DAY)


def test_a_server_that_is_not_there_is_said(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SluiceError, match="does not answer"):
        Lake(address).read(MERGED_LABELS)
    with pytest.raises(SluiceError, match="does not answer"):
        Lake(address).replace(MERGED_LABELS, merged(DAY, 1), DAY)


@pytest.mark.parametrize("budget", [5_000, 60_000, 400_000])
def test_a_connection_cut_while_rows_go_up_leaves_the_old_version(
    server: LakeServer, address: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{address}/{budget}"
    Lake(address).replace(PREDICTIONS, bulky(DAY, 10), DAY)
    before = content_digest(Lake(address).read(PREDICTIONS))
    with cutting_proxy(urlsplit(server.endpoint).port or 0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.budget = budget
        with pytest.raises(SluiceError, match="does not answer|dropped the connection"):
            Lake(address).replace(PREDICTIONS, bulky(DAY, 20_000), DAY)
        assert proxy.was_cut
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    assert content_digest(Lake(address).read(PREDICTIONS)) == before
    assert Lake(address).version(PREDICTIONS) == 1


def test_a_server_killed_while_rows_go_up_leaves_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_lake(tmp_path) as first:
        for name, value in first.environment().items():
            monkeypatch.setenv(name, value)
        Lake(ADDRESS).replace(PREDICTIONS, bulky(DAY, 10), DAY)
        before = content_digest(Lake(ADDRESS).read(PREDICTIONS))
        with cutting_proxy(urlsplit(first.endpoint).port or 0) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
            rows = bulky(DAY, 20_000)
            seen = threading.Timer(0.0, lambda: _kill_when(first, proxy, 100_000))
            seen.start()
            with pytest.raises(SluiceError, match="does not answer|dropped the connection"):
                Lake(ADDRESS).replace(PREDICTIONS, rows, DAY)
            seen.join()
    with serve_lake(tmp_path) as second:
        for name, value in second.environment().items():
            monkeypatch.setenv(name, value)
        assert content_digest(Lake(ADDRESS).read(PREDICTIONS)) == before


def _kill_when(server: LakeServer, proxy: object, sent: int) -> None:
    while len(proxy.seen) < sent:  # type: ignore[attr-defined]
        threading.Event().wait(0.001)
    server.process.kill()


def test_a_server_that_ignores_conditions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / BUCKET).mkdir()
    with serve_s3(tmp_path) as rclone:
        for name, value in rclone.environment().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SluiceError, match="ignores conditional writes"):
            Lake(ADDRESS).replace(MERGED_LABELS, merged(DAY, 1), DAY)
    assert not list(tmp_path.rglob("*.parquet"))


# -- one writer at a time -----------------------------------------------------------------------------------

WRITER = """
import sys
from datetime import date
import pyarrow as pa
from jobs.lake.store import Lake
from jobs.lake.tables import MERGED_LABELS
address, digest, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for number in range(count):
    lake = Lake(address)
    with lake.exclusively("counting"):
        known = lake.read(MERGED_LABELS)
        row = {"day": date(2026, 1, 5), "digest": f"{digest}{number}", "rows": known.num_rows}
        added = pa.Table.from_pylist([row], schema=MERGED_LABELS.schema)
        lake.replace(MERGED_LABELS, pa.concat_tables([known, added]), "2026-01-05")
"""


def test_two_processes_that_read_and_write_lose_nothing(address: str) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, address, name, "6"], cwd=Path(__file__).parents[2])
        for name in ("a", "b")
    ]
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0]
    rows = Lake(address).read(MERGED_LABELS).sort_by("rows")
    assert rows["rows"].to_pylist() == list(range(12))
    assert sorted(rows["digest"].to_pylist()) == sorted(f"{name}{n}" for name in "ab" for n in range(6))


def test_a_writer_that_finds_the_lease_held_is_refused_after_its_wait_and_told_by_whom(address: str) -> None:
    with leased(address, "transactions"):
        with (
            pytest.raises(SluiceError, match=rf"transactions is being written by process {os.getpid()} of"),
            leased(address, "transactions", wait=0.5),
        ):
            pass
        with leased(address, "labels", wait=0.5):
            pass
    with leased(address, "transactions", wait=0.5):
        pass


def test_a_lease_is_renewed_as_long_as_it_is_held(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "MARGIN", 1.0)
    with leased(address, "transactions", seconds=2.0):
        with pytest.raises(SluiceError, match="is being written by"), leased(address, "transactions", wait=6):
            pass
        require_held()


def test_the_lease_of_a_killed_holder_is_taken_over_once_it_has_run_out(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "MARGIN", 1.0)
    script = (
        "import os, sys; from jobs.lake.lease import leased\n"
        "with leased(sys.argv[1], 'transactions', seconds=3.0): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", script, address], cwd=Path(__file__).parents[2])
    assert killed.returncode == -9
    with pytest.raises(SluiceError, match="is being written by"), leased(address, "transactions", wait=0.2):
        pass
    with leased(address, "transactions", wait=30):
        pass


def _stalled(address: str, name: str) -> Lease:
    """A holder that stands still: nothing renews its lease."""
    parsed = s3_address(address)
    assert parsed is not None
    stalled = Lease(Objects(parsed, "lake"), name, 1.0)
    stalled._thread = threading.Thread(target=lambda: None)
    stalled.acquire(1.0)
    return stalled


def test_a_holder_that_stood_still_knows_that_it_has_lost_its_lease(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "MARGIN", 1.0)
    stalled = _stalled(address, "transactions")
    assert stalled.is_held
    with leased(address, "transactions", wait=30):
        assert not stalled.is_held
        monkeypatch.setitem(lease._HELD, stalled.token, stalled)
        with pytest.raises(SluiceError, match="ran out while it was held"):
            Lake(address).replace(MERGED_LABELS, merged(DAY, 1), DAY)
        monkeypatch.delitem(lease._HELD, stalled.token)
        stalled.release()  # must not free what the other holds now
        with (
            pytest.raises(SluiceError, match="is being written by"),
            leased(address, "transactions", wait=0.5),
        ):
            pass


def test_a_commit_that_the_lease_did_not_keep_apart_is_refused_by_the_condition(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(address)
    lake.replace(MERGED_LABELS, merged(DAY, 1), DAY)

    def overtaken(table: object) -> object:
        """Opens the table, and before the write another writer commits."""
        opened = lake.delta(MERGED_LABELS)
        Lake.replace(Lake(address), MERGED_LABELS, merged(DAY, 2, "other"), DAY)
        return opened

    late = Lake(address)
    with monkeypatch.context() as once:
        once.setattr(late, "made", overtaken)
        once.setattr(late, "writing", lambda _table: lease_that_does_nothing())
        with pytest.raises(WrittenMeanwhile, match="another writer changed it"):
            late.replace(MERGED_LABELS, merged(DAY, 3, "late"), DAY)
    assert lake.read(MERGED_LABELS)["digest"].to_pylist() == ["other"]


def lease_that_does_nothing() -> object:
    from contextlib import nullcontext

    return nullcontext()


def test_a_lease_object_holds_no_credential(server: LakeServer, address: str) -> None:
    with leased(address, "transactions"):
        pass
    (file,) = (server.folder / BUCKET / address.split(f"{BUCKET}/", 1)[1]).rglob("*.json")
    assert set(json.loads(file.read_text())) == {"holder", "token", "beat", "held", "seconds"}
    assert server.secret not in file.read_text()


def test_the_settings_name_the_lake_and_no_credential(server: LakeServer, address: str) -> None:
    settings = load_settings(os.environ | {"SLUICE_LAKE_URI": address})
    assert lake_of(settings).address == address
    assert server.secret not in settings.model_dump_json()


def test_rows_that_were_appended_are_not_refused_because_the_lease_ran_out_afterwards(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever hears of an error writes the rows again."""
    stalled = _stalled(address, "another")
    stalled._renewed = float("-inf")
    real = store.write_deltalake

    def stand_still(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        monkeypatch.setitem(lease._HELD, stalled.token, stalled)

    lake = Lake(address)
    lake.append(MERGED_LABELS, merged(DAY, 1))
    with monkeypatch.context() as once:
        once.setattr(store, "write_deltalake", stand_still)
        lake.append(MERGED_LABELS, merged(DAY, 2))
    with pytest.raises(SluiceError, match="ran out while it was held"):
        lake.append(MERGED_LABELS, merged(DAY, 3))  # nothing is written
    monkeypatch.delitem(lease._HELD, stalled.token)
    assert sorted(lake.read(MERGED_LABELS)["rows"].to_pylist()) == [1, 2]
