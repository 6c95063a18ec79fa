"""The messages of `heartbeat.webhook_url`: one for each change of a flow's state."""

import json
from typing import Any
from urllib.parse import quote

from ...redaction import shorten
from ...settings import Settings
from ..alarms import FlowAlarm
from .sender import Message, Sender

# The limit for the message of an error, in characters.
LONGEST_ERROR = 1_000
# Characters by which chats find mentions and links in a text; an error may contain them.
_PLAIN = str.maketrans({"<": "\u2039", ">": "\u203a", "@": "@\u200b"})


class Webhook:
    """The webhook of an application."""

    def __init__(self, settings: Settings, sender: Sender) -> None:
        self.settings, self.sender = settings, sender

    def notify(self, alarm: FlowAlarm) -> None:
        """Send the message of an alarm."""
        if url := self.settings.webhook_url:
            body = json.dumps(self._members(alarm)).encode()
            message = Message(str(url.get_secret_value()), body, "application/json")
            self.sender.send("heartbeat.webhook_url", message)

    def _members(self, alarm: FlowAlarm) -> dict[str, Any]:
        return {
            "event": alarm.state,
            "flow": alarm.flow,
            "state": "ok" if alarm.state == "recovered" else alarm.state,
            "since": alarm.since.isoformat(),
            "reminder": alarm.is_reminder,
            "run_id": alarm.run_id,
            "error_type": alarm.error_type,
            "error_message": shorten(alarm.error_message or "", LONGEST_ERROR) or None,
            # The application does not know the host under which it is reached.
            "path": f"{self.settings.path}/flows/{quote(alarm.flow, safe='')}",
            "text": alarm.text.translate(_PLAIN),
        }
