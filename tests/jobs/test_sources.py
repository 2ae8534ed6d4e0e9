"""Sources: a directory, and a real S3 server that checks signatures; one clear sentence for each trouble."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from jobs.core import SluiceError
from jobs.ingest.sources import PIECE_BYTES, fetch_day, open_source, read_day
from tests.s3_server import S3Server, free_port, serve_s3

DAY = date(2026, 1, 5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with serve_s3(tmp_path_factory.mktemp("s3")) as running:
        folder = running.folder / "bucket" / "cards"
        folder.mkdir(parents=True)
        (running.folder / "empty-bucket").mkdir()
        for day in ("2026-01-04", "2026-01-05", "2026-01-07"):
            (folder / f"{day}.csv").write_text(f"file of {day}\n")
        yield running


@pytest.fixture
def inside(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


@pytest.mark.usefixtures("inside")
def test_a_day_is_copied_piece_by_piece_with_the_same_bytes_and_instant(tmp_path: Path) -> None:
    content = bytes(range(256)) * (PIECE_BYTES // 256) + b"the second piece"
    for address in ("s3://bucket/copied", str(tmp_path / "copied")):
        source = open_source(address)
        source.write("2026-01-05.csv", content)
        modified = fetch_day(source, "{day}.csv", DAY, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content
        assert modified == read_day(source, "{day}.csv", DAY).modified


@pytest.mark.usefixtures("inside")
def test_a_day_is_read_from_s3_with_the_instant_of_its_last_change(server: S3Server) -> None:
    source = open_source("s3://bucket/cards/")
    assert read_day(source, "{day}.csv", DAY).data == b"file of 2026-01-05\n"
    assert source.address == "s3://bucket/cards"
    modified = read_day(source, "{day}.csv", DAY).modified
    there = (server.folder / "bucket" / "cards" / "2026-01-05.csv").stat().st_mtime
    assert modified.utcoffset() == timedelta(0)
    assert modified.timestamp() == pytest.approx(there, abs=1.0)
    assert source.names() == ["2026-01-04.csv", "2026-01-05.csv", "2026-01-07.csv"]


def test_a_file_is_written_to_s3_as_it_is(inside: S3Server) -> None:
    open_source("s3://empty-bucket/deep/er").write("a.bin", b"\x00\xff" * 1000)
    assert (inside.folder / "empty-bucket/deep/er/a.bin").read_bytes() == b"\x00\xff" * 1000
    (inside.folder / "empty-bucket/deep/er/a.bin").unlink()


@pytest.mark.usefixtures("inside")
def test_s3_days_outside_the_data_name_the_first_and_the_last_day() -> None:
    with pytest.raises(SluiceError, match=r"first day 2026-01-04, last day 2026-01-07"):
        read_day(open_source("s3://bucket/cards"), "{day}.csv", date(2026, 2, 1))


@pytest.mark.usefixtures("inside")
def test_a_bucket_that_is_not_there_is_named() -> None:
    with pytest.raises(SluiceError, match="there is no bucket nowhere"):
        read_day(open_source("s3://nowhere/cards"), "{day}.csv", DAY)


@pytest.mark.usefixtures("inside")
def test_a_prefix_without_files_is_empty() -> None:
    with pytest.raises(SluiceError, match="empty: no file named like"):
        read_day(open_source("s3://bucket/other"), "{day}.csv", DAY)


def test_a_wrong_secret_is_denied_and_never_repeated(
    inside: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" + inside.secret)
    with pytest.raises(SluiceError, match="access denied") as caught:
        read_day(open_source("s3://bucket/cards"), "{day}.csv", DAY)
    assert inside.secret not in str(caught.value)
    assert inside.key_id not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_unknown_key_is_denied(inside: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown" + inside.key_id)
    with pytest.raises(SluiceError, match="access denied"):
        read_day(open_source("s3://bucket/cards"), "{day}.csv", DAY)


def test_no_credentials_says_which_variables(
    inside: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(SluiceError, match="set AWS_ACCESS_KEY_ID and"):
        read_day(open_source("s3://bucket/cards"), "{day}.csv", DAY)


@pytest.mark.usefixtures("inside")
def test_a_server_that_is_down_is_said_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(SluiceError, match="does not answer; check AWS_ENDPOINT_URL"):
        read_day(open_source("s3://bucket/cards"), "{day}.csv", DAY)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="no such directory"):
        read_day(open_source(str(tmp_path / "none")), "{day}.csv", DAY)


def test_an_empty_directory_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match="empty: no file named like"):
        read_day(open_source(str(tmp_path)), "{day}.csv", DAY)


def test_a_gap_in_the_data_is_told_apart_from_a_day_outside(tmp_path: Path) -> None:
    for day in ("2026-01-04", "2026-01-07"):
        (tmp_path / f"{day}.csv").write_text("x\n")
    with pytest.raises(SluiceError, match="although the days around it are there"):
        read_day(open_source(str(tmp_path)), "{day}.csv", DAY)
    with pytest.raises(SluiceError, match=r"first day 2026-01-04, last day 2026-01-07"):
        read_day(open_source(str(tmp_path)), "{day}.csv", date(2026, 1, 8))


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("", "no source is set"),
        ("ftp://host/path", "ftp:// is not supported"),
        ("s3://AKIAKEY:hidden@bucket/prefix", "without credentials"),
        ("s3://bucket/prefix?token=hidden", "without credentials"),
        ("s3:/bucket", "without credentials"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_without_repeating_secrets(address: str, says: str) -> None:
    with pytest.raises(SluiceError, match=says) as caught:
        open_source(address)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("name", ["../secret.csv", "/etc/passwd", "a/b.csv", ".hidden", ""])
def test_a_name_that_leads_out_of_the_source_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SluiceError, match="not a plain file name"):
        open_source(str(tmp_path)).read(name)
