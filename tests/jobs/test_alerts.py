"""Alerts reach a person: by a real web server, a real mail server, once, and silenced only for a time."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from pydantic import ValidationError

from jobs.alerts import Alert, raise_alerts
from jobs.conf.policy import Silence, load_policy
from jobs.conf.settings import Settings, load_settings
from jobs.core import SluiceError
from jobs.monitoring.figures import CAUSES, NOT_MEASURED, REPLACED, WORSE, Figure, alerts_of

TODAY = date(2026, 3, 10)
ALERT = Alert(key="2026-03-09/psi amount", cause="psi amount: 0.31", owner="payments", action="look")


class Hook(ThreadingHTTPServer):
    """Takes alerts, or answers 503 while it is broken."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.broken = False
        super().__init__(("127.0.0.1", 0), Receiver)


class Receiver(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.broken:
            self.server.taken.append(json.loads(body))
        self.send_response(503 if self.server.broken else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing to the terminal."""


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Hook()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Inbox(Message):
    def __init__(self) -> None:
        super().__init__()
        self.mails: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.mails.append(message)


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    handler = Inbox()
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    yield handler, f"127.0.0.1:{port}"
    controller.stop()


def with_hook(home: Settings, hook: Hook, **more: str) -> Settings:
    address = f"http://127.0.0.1:{hook.server_address[1]}/alerts"
    return home.model_copy(update={"alert_webhook": address, **more})


def lines(home: Settings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home.home / "alerts.jsonl").read_text().splitlines()]


def test_an_alert_comes_once_by_every_channel_with_cause_owner_and_action(
    home: Settings, hook: Hook, inbox: tuple[Inbox, str], caplog: pytest.LogCaptureFixture
) -> None:
    handler, server = inbox
    settings = with_hook(home, hook, alert_mail_to="team@example.org", alert_mail_server=server)
    with caplog.at_level(logging.WARNING):
        assert raise_alerts(settings, [ALERT, ALERT], TODAY) == 1
        assert raise_alerts(settings, [ALERT], TODAY) == 0
    (taken,), (mail,) = hook.taken, handler.mails
    assert (taken["cause"], taken["owner"], taken["action"]) == ("psi amount: 0.31", "payments", "look")
    assert taken["text"] == "alert for payments: psi amount: 0.31; to do: look"
    assert mail["Subject"] == "[sluice] alert: psi amount: 0.31"
    assert mail["To"] == "team@example.org"
    assert "action: look" in mail.get_payload()
    assert caplog.text.count("psi amount: 0.31") == 1
    assert len(lines(settings)) == 1


def test_a_channel_that_is_down_holds_up_nobody_and_gets_its_alerts_later(home: Settings, hook: Hook) -> None:
    settings, hook.broken = with_hook(home, hook), True
    assert raise_alerts(settings, [ALERT], TODAY) == 1
    assert hook.taken == []
    hook.broken = False
    other = ALERT.model_copy(update={"key": "2026-03-10/psi hour"})
    raise_alerts(settings, [other], TODAY)
    assert {each["key"] for each in hook.taken} == {ALERT.key, other.key}
    raise_alerts(settings, [], TODAY)
    assert len(hook.taken) == 2


def test_a_mail_server_that_is_not_there_fails_no_job(home: Settings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{free.getsockname()[1]}"
    settings = home.model_copy(update={"alert_mail_to": "team@example.org", "alert_mail_server": server})
    assert raise_alerts(settings, [ALERT], TODAY) == 1
    assert len(list((home.home / "alerts_waiting" / "mail").glob("*.json"))) == 1


def test_a_cause_of_many_lines_cannot_write_headers_of_a_mail(
    home: Settings, inbox: tuple[Inbox, str]
) -> None:
    handler, server = inbox
    settings = home.model_copy(update={"alert_mail_to": "team@example.org", "alert_mail_server": server})
    raise_alerts(settings, [ALERT.model_copy(update={"cause": "x\nBcc: thief@example.org"})], TODAY)
    (mail,) = handler.mails
    assert mail["Bcc"] is None
    assert mail["Subject"] == "[sluice] alert: x Bcc: thief@example.org"


def test_a_silenced_alert_is_recorded_and_told_to_nobody_until_the_silence_ends(
    home: Settings, hook: Hook, tmp_path: Path
) -> None:
    overlay = tmp_path / "silence.yaml"
    overlay.write_text(
        'alerts: {silenced: [{key: "*/psi amount", until: 2026-03-12, person: ada, reason: a campaign}]}'
    )
    settings = with_hook(home, hook, policy_overlay=str(overlay))
    raise_alerts(settings, [ALERT], TODAY)
    assert hook.taken == []
    assert lines(settings)[0]["silenced_until"] == "2026-03-12"
    later = ALERT.model_copy(update={"key": "2026-03-12/psi amount"})
    raise_alerts(settings, [later], TODAY + timedelta(days=2))
    assert [each["key"] for each in hook.taken] == [later.key]


def test_there_is_no_silence_without_an_end() -> None:
    with pytest.raises(ValidationError, match="until"):
        Silence.model_validate({"key": "*/psi amount", "person": "ada", "reason": "noise"})


@pytest.mark.parametrize("address", ["ftp://host/x", "https://user:secret@host/x", "file:///etc/passwd"])
def test_a_webhook_is_plain_http_without_credentials(address: str) -> None:
    with pytest.raises(SluiceError, match="ALERT_WEBHOOK"):
        load_settings({"SLUICE_ALERT_WEBHOOK": address})


def test_the_runbook_says_what_to_do_for_every_cause_and_for_no_other() -> None:
    runbook = load_policy().alerts.runbook
    assert set(runbook) == {NOT_MEASURED, REPLACED, *CAUSES.values(), *WORSE.values()}


def test_the_action_of_an_alert_is_the_runbooks(home: Settings) -> None:
    figures = [
        Figure(metric="psi", subject="amount", status="alert", value=0.22),
        Figure(metric="psi", subject="hour", status="retrain", value=0.4),
        Figure(metric="pr_auc", subject="all", status="page", value=0.2),
        Figure(metric="answers", subject="all", status="unknown"),
        Figure(metric="psi", subject="is_night", status="investigate", value=0.12),
    ]
    actions = [each.action.partition(":")[0] for each in alerts_of(home, TODAY, figures)]
    assert actions == ["disable feature", "retrain", "roll back", "repair"]


def test_the_page_about_monitoring_shows_the_runbook_of_the_policy() -> None:
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    shown = page.partition("<!-- runbook -->")[2].partition("<!-- end of runbook -->")[0].strip()
    rows = [
        f"| {cause} | {each.action} | {each.text} |" for cause, each in load_policy().alerts.runbook.items()
    ]
    assert shown.splitlines()[2:] == rows, "copy the policy's runbook into the table"
