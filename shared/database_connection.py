"""Connections that know when the server has ended them."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from typing import Any, TypeVar

import asyncpg

ENDED = (
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleSessionTimeoutError,
)
"""After these the server closes the connection."""

ARGUMENT_CLASSES = frozenset({"22", "23", "54"})
"""SQLSTATE classes that an argument may be the reason of: data exception, integrity violation, program limit exceeded."""

END_SECONDS_MAX = 2.0

Result = TypeVar("Result")


def may_come_from_an_argument(error: Exception) -> bool:
    """Whether the statement may succeed with other arguments: the driver or the database could not take one."""
    sqlstate: str = getattr(error, "sqlstate", None) or ""
    return isinstance(error, (ValueError, TypeError, OverflowError)) or sqlstate[:2] in ARGUMENT_CLASSES


class DatabaseConnection(asyncpg.Connection):  # type: ignore[misc]
    """Closes itself with the server's last word, so that a pool replaces it, and tells late users that it is gone.

    The driver's own connection looks open until the end of the stream arrives, and fails meanwhile with InternalClientError.
    """

    async def execute(self, *arguments: Any, **options: Any) -> str:
        return await self._until_ended(super().execute(*arguments, **options))

    async def executemany(self, *arguments: Any, **options: Any) -> None:
        await self._until_ended(super().executemany(*arguments, **options))

    async def fetch(self, *arguments: Any, **options: Any) -> list[asyncpg.Record]:
        return await self._until_ended(super().fetch(*arguments, **options))

    async def fetchval(self, *arguments: Any, **options: Any) -> Any:
        return await self._until_ended(super().fetchval(*arguments, **options))

    async def fetchrow(self, *arguments: Any, **options: Any) -> asyncpg.Record | None:
        return await self._until_ended(super().fetchrow(*arguments, **options))

    async def copy_records_to_table(self, *arguments: Any, **options: Any) -> str:
        return await self._until_ended(super().copy_records_to_table(*arguments, **options))

    async def end(self) -> None:
        """Ends it, whether the server answers or not. Raises nothing: a cancellation that is on its way stays what it is."""
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self.close(timeout=END_SECONDS_MAX)

    async def _until_ended(self, statement: Awaitable[Result]) -> Result:
        try:
            return await statement
        except ENDED:
            self.terminate()
            raise
        except asyncpg.InternalClientError as error:
            self.terminate()
            raise asyncpg.ConnectionDoesNotExistError("the server has ended the connection") from error
