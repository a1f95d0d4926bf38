"""THE TABLE of what a database raises that may heal: every loop and every door uses it.

Whatever stands here is an outage, not a fault: nothing of the transaction was kept, or nobody knows whether it was;
the same may be tried again later. What does not stand here is a fault of ours.
"""

from __future__ import annotations

from typing import Final

import asyncpg

#: A connection that was lost or refused. What was under way is then unknown: committed or not.
CONNECTION_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    # What the driver says when a connection is cut while it prepares the next step.
    asyncpg.InternalClientError,
)
#: What waited for somebody else's lock in vain, or lost to him; nothing of it was committed.
LOCK_ERRORS: Final = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.StatementCompletionUnknownError,
)
#: A server that cannot write now: a stand-by after a failover, a full disk, no memory, a statement cut short.
UNWRITABLE_ERRORS: Final = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.PostgresIOError,
)
#: All of it.
OUTAGES: Final = (*CONNECTION_ERRORS, *LOCK_ERRORS, *UNWRITABLE_ERRORS)
#: After these the connection is thrown away: the next one may find another server, or the same one well.
DISCARDING_ERRORS: Final = (*CONNECTION_ERRORS, asyncpg.ReadOnlySQLTransactionError)
