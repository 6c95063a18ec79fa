"""Connections to the database, and all that differs between databases or drivers.

engines: one Engine for each purpose. limits: how long a connection may wait. sqlite: its one write
lock. insert: rows that a constraint may refuse. flow_session: the session of a flow.
readiness: whether a database can be used. transactions: what a transaction can be asked.
"""

from .engines import database_url, make_engine
from .insert import insert_new
from .limits import (
    BOOKKEEPING,
    DEFAULT,
    ENDING,
    MIGRATION,
    UNLIMITED,
    Limits,
    limit_transaction,
)
from .readiness import (
    is_silent,
    is_unavailable,
    reason,
    require_reachable,
    require_skip_locked,
)
from .sqlite import Waiters, end_left_transaction
from .statements import transaction_control
from .transactions import (
    begin_writing,
    break_off,
    end_transaction,
    open_transaction,
    reading_only,
)
from .watch import answer_within

__all__ = [
    "BOOKKEEPING",
    "DEFAULT",
    "ENDING",
    "MIGRATION",
    "UNLIMITED",
    "Limits",
    "Waiters",
    "answer_within",
    "begin_writing",
    "break_off",
    "database_url",
    "end_left_transaction",
    "end_transaction",
    "insert_new",
    "is_silent",
    "is_unavailable",
    "limit_transaction",
    "make_engine",
    "open_transaction",
    "reading_only",
    "reason",
    "require_reachable",
    "require_skip_locked",
    "transaction_control",
]
