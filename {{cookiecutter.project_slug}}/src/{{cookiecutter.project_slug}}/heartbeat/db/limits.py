"""How long a connection may wait: for a lock, for an answer, and for a network that is silent.

Three layers complement each other. TCP gives up a peer that is gone. The watch closes a connection
whose answer does not come in time, whatever the reason. The server ends the transaction of a client
that sends nothing, and so frees its locks.
"""

import math
from dataclasses import dataclass

# The limit in seconds for making a connection, sign-in included, and for its set-up.
CONNECT_SECONDS = 8
# The limit in seconds for the test whether the server of an idle connection is still there.
PING_SECONDS = 3.0
# How long TCP waits for an acknowledgement, and how it probes an idle connection, in seconds.
ACKNOWLEDGE_SECONDS = 10
PROBE_AFTER, PROBE_EVERY, PROBES = 5, 3, 3
# The same as options of a socket, of which not every system has all, and of libpq's drivers.
TCP_OPTIONS = {
    "TCP_NODELAY": 1,
    "TCP_USER_TIMEOUT": ACKNOWLEDGE_SECONDS * 1_000,
    "TCP_KEEPIDLE": PROBE_AFTER,
    "TCP_KEEPINTVL": PROBE_EVERY,
    "TCP_KEEPCNT": PROBES,
}
LIBPQ_OPTIONS = {
    "connect_timeout": CONNECT_SECONDS,
    "tcp_user_timeout": ACKNOWLEDGE_SECONDS * 1_000,
    "keepalives_idle": PROBE_AFTER,
    "keepalives_interval": PROBE_EVERY,
    "keepalives_count": PROBES,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the connections of an engine wait, in seconds. Infinity means no limit.

    lock: for a row or a table that another transaction holds.
    answer: for the answer to a statement or a commit.
    idle: how long the server keeps a transaction whose client sends nothing.
    write_lock: for the write lock of SQLite, which a flow that has written holds until it ends.
    """

    lock: float = math.inf
    answer: float = math.inf
    idle: float = math.inf
    write_lock: float = math.inf


# The engine's own transactions, which are short and are retried. The transaction of a client that
# has vanished must end soon, since its locks block other processes.
BOOKKEEPING = Limits(lock=10, answer=12, idle=15)
# The end of a flow's transaction. It waits longer than the locks of a vanished client last.
ENDING = Limits(lock=20, answer=25, idle=15)
# The application's own views and scripts.
DEFAULT = Limits(lock=60, write_lock=60)
# Migrations, which take turns and may have to wait for a flow.
MIGRATION = Limits(lock=600, write_lock=600)
# Flows, whose statements and pauses may be long.
UNLIMITED = Limits()
