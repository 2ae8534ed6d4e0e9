"""MLflow's address is shown in logs, pages and alerts, so it holds no credentials; they come beside it."""

from __future__ import annotations

import base64

import httpx
import pytest

from jobs.conf.settings import Settings, load_settings
from jobs.core import SluiceError
from jobs.promotion.registry_rest import RegistryRest


@pytest.mark.parametrize("name", ["SLUICE_MLFLOW_URI", "SLUICE_MLFLOW_PUBLIC_URI"])
@pytest.mark.parametrize(
    "address",
    ["http://user:hidden@host:5000", "https://hidden@host", "postgresql://user:hid/den@host/mlflow"],
)
def test_an_address_with_credentials_is_refused_and_not_repeated(name: str, address: str) -> None:
    with pytest.raises(SluiceError, match=f"{name}.*MLFLOW_TRACKING_PASSWORD") as refused:
        load_settings({name: address})
    assert "hid" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:5000", "https://mlflow.example/prefix", "sqlite:////home/me@there/mlflow.db"],
)
def test_any_other_address_is_taken_as_it_is(address: str) -> None:
    assert load_settings({"SLUICE_MLFLOW_URI": address}).mlflow_uri == address


@pytest.mark.parametrize(
    ("user", "sent"), [("", ""), ("ann", "Basic " + base64.b64encode(b"ann:pw").decode())]
)
def test_the_light_reader_shows_the_login_that_mlflows_own_client_shows(
    home: Settings, monkeypatch: pytest.MonkeyPatch, user: str, sent: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pw")
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization", ""))
        return httpx.Response(200, json={"registered_model": {"aliases": []}})

    with RegistryRest(home, httpx.MockTransport(answer)) as registry:
        assert registry.aliases() == {}
    assert seen == [sent]
