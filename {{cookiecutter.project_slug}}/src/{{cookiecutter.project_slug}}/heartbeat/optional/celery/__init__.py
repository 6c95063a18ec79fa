"""Optional: beats hand what is due to Celery, whose workers execute it.

A message is the id of a run and nothing else. The run's row, in `pending`, is the truth: a message
that comes twice, late or never does no harm. Workers are started with `worker.py`.
"""

from functools import partial

from pyramid.config import Configurator

from ...core import Heartbeat
from ...errors import SettingsError
from .hand_over import hand_over, hand_over_requested


def includeme(config: Configurator) -> None:
    """Make beats hand runs over if the setting `executor` is celery.

    Raises SettingsError if the broker's URL cannot be used, or a package is missing.
    """
    heartbeat: Heartbeat = config.registry["heartbeat"]
    heartbeat.queues = True  # the option is valid with both executors
    if heartbeat.settings.executor == "local":
        return
    try:
        from .sending import Sender

        send = Sender(heartbeat).send
        heartbeat.hand_over = partial(hand_over, send)
        heartbeat.hand_over_requested = partial(hand_over_requested, send, heartbeat)
    except (ImportError, AttributeError, KeyError) as error:  # the last two are kombu's
        raise SettingsError(
            "heartbeat.celery_broker_url cannot be used: begin it with amqp:// or redis://, and "
            f"run `.venv/bin/pip install 'celery[redis]>=5.7'` ({error})"
        ) from error
