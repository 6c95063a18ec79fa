"""Optional: HTTP requests to `heartbeat.ping_url`, `heartbeat.webhook_url` and flows' `ping_url`.

They are sent on a thread of their own, outside of every transaction.
"""

from pyramid.config import Configurator
from pyramid.events import ApplicationCreated

from ...core import Heartbeat
from .pings import Pings
from .sender import Sender


def includeme(config: Configurator) -> None:
    """Add the option `ping_url`, and send what the settings ask for."""
    # Here, since the engine imports this package before it has that name.
    from ... import OPTIONAL

    heartbeat: Heartbeat = config.registry["heartbeat"]
    sender = Sender()
    heartbeat.pings = pings = Pings(heartbeat, sender)
    heartbeat.at_exit.append(sender.flush)
    if heartbeat.settings.webhook_url and "alarms" in OPTIONAL:
        from ..alarms import FlowAlarm
        from .webhook import Webhook

        webhook = Webhook(heartbeat.settings, sender)
        config.add_subscriber(webhook.notify, FlowAlarm)

    def start(_event: ApplicationCreated) -> None:
        if pings.has_urls():
            heartbeat.subscribers.append(pings.follow)

    config.add_subscriber(start, ApplicationCreated)  # when all flows are known
