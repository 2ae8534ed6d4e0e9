"""Where alerts go: one interface for the log, a webhook and mail.

In: an alert as JSON values (key, cause, owner, action, status, facts). Out: nothing, or `ChannelFailed`.
A channel is ready when the settings hold its address. The webhook gets the alert as JSON with a further
`text`, which chat services show; mail goes in plain text to one address, encrypted where the server can.
"""

from __future__ import annotations

import json
import logging
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import EmailMessage
from http.client import HTTPException
from typing import Any, Protocol

from jobs.conf.settings import Settings

SUBJECT_LENGTH = 150
log = logging.getLogger("jobs.alerts")


class ChannelFailed(Exception):
    """The alert was not taken; the sentence says by whom."""


class Channel(Protocol):
    """One way to tell a person."""

    def ready(self, settings: Settings) -> bool:
        """Whether the settings say where to."""
        ...

    def send(self, alert: Mapping[str, Any], settings: Settings, timeout: float) -> None:
        """Tell, within `timeout` seconds.

        Raises:
            ChannelFailed: nobody took it.
        """
        ...


def sentence(alert: Mapping[str, Any]) -> str:
    """The alert in one line."""
    return f"{alert['status']} for {alert['owner']}: {alert['cause']}; to do: {alert['action']}"


class Log:
    """A warning in the log of the process that raised it."""

    def ready(self, settings: Settings) -> bool:
        return True

    def send(self, alert: Mapping[str, Any], settings: Settings, timeout: float) -> None:
        log.warning("%s", sentence(alert))


class Webhook:
    """An HTTP POST of JSON; any 2xx answer takes it."""

    def ready(self, settings: Settings) -> bool:
        return bool(settings.alert_webhook)

    def send(self, alert: Mapping[str, Any], settings: Settings, timeout: float) -> None:
        request = urllib.request.Request(  # noqa: S310 - the settings allow http and https alone
            settings.alert_webhook,
            data=json.dumps({**alert, "text": sentence(alert)}).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "sluice"},
            method="POST",
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout):  # noqa: S310
                return
        except (urllib.error.URLError, HTTPException, OSError) as error:
            raise ChannelFailed(f"the webhook did not take it: {error}") from error


class Mail:
    """One message for each alert."""

    def ready(self, settings: Settings) -> bool:
        return bool(settings.alert_mail_to)

    def send(self, alert: Mapping[str, Any], settings: Settings, timeout: float) -> None:
        host, _, port = settings.alert_mail_server.rpartition(":")
        try:
            with smtplib.SMTP(host, int(port), timeout=timeout) as server:
                server.ehlo()
                if server.has_extn("starttls"):
                    server.starttls(context=ssl.create_default_context())
                server.send_message(message_of(alert, settings))
        except (smtplib.SMTPException, OSError) as error:
            raise ChannelFailed(f"mail server {host}:{port} did not take it: {error}") from error


def message_of(alert: Mapping[str, Any], settings: Settings) -> EmailMessage:
    """The alert as a mail; its cause becomes one line of the header, whatever is in it."""
    message = EmailMessage()
    cause = " ".join(str(alert["cause"]).split())[:SUBJECT_LENGTH]
    message["Subject"] = f"[sluice] {alert['status']}: {cause}"
    message["From"], message["To"] = settings.alert_mail_from, settings.alert_mail_to
    lines = (f"{name}: {alert[name]}" for name in ("cause", "owner", "action", "status", "key"))
    message.set_content("\n".join([*lines, "", json.dumps(alert["facts"], indent=1)]))
    return message


CHANNELS: dict[str, Channel] = {"log": Log(), "webhook": Webhook(), "mail": Mail()}
