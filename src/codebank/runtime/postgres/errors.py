"""THE TABLE of what a database raises that may heal: every loop and every door uses it.

Whatever stands here is an outage, not a fault: nothing of the transaction was kept, or nobody knows whether it was;
the same may be tried again later. What does not stand here is a fault of ours.
"""

from __future__ import annotations

from typing import Final

import asyncpg

#: A connection that was lost or refused. What was under way is then unknown: committed or not.
#: A mistake in the use of a connection is `asyncpg.InterfaceError` and is not here; where the driver says that of one
#: that was lost meanwhile, the pool says which it was (see `pool.lost`).
CONNECTION_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    # What the driver says when it lost its thread, such as by a connection that is cut between two steps of a call,
    # or when none of several servers is the one that is asked for.
    asyncpg.InternalClientError,
)
#: What waited for somebody else's lock in vain, or lost to him; nothing of it was committed.
LOCK_ERRORS: Final = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.StatementCompletionUnknownError,
    # Lost to a migration: a plan of before it, in a transaction that cannot be begun anew by the driver.
    asyncpg.InvalidCachedStatementError,
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
