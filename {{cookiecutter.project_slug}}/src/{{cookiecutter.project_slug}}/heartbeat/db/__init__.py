"""Connections to the database, and all differences between databases or drivers.

backend: the differences, as a portable default; postgresql, mysql and sqlite override it. engines:
one Engine for each purpose. limits and watch: how long a connection may wait. write_lock: SQLite's.
readiness: whether a database can be used. types, text, stored: columns and their values.
"""

from .backends import backend_of as backend_of
from .driver_errors import is_silent as is_silent
from .driver_errors import is_unavailable as is_unavailable
from .driver_errors import reason as reason
from .engines import close_connections as close_connections
from .engines import database_url as database_url
from .engines import make_engine as make_engine
from .limits import BOOKKEEPING as BOOKKEEPING
from .limits import MIGRATION as MIGRATION
from .limits import UNLIMITED as UNLIMITED
from .limits import Limits as Limits
from .readiness import create_database as create_database
from .readiness import require_reachable as require_reachable
from .readiness import require_skip_locked as require_skip_locked
from .transactions import begin_writing as begin_writing
from .transactions import limit_transaction as limit_transaction
from .watch import answer_within as answer_within
from .write_lock import Waiters as Waiters
