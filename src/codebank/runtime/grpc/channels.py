"""Several connections to one address, for a server of several processes: the kernel gives each connection to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import grpc

from codebank.runtime.grpc.tls import Identity, Options, open_channel

#: So many that each process is given some: which one a connection is given to is chance.
_PER_PROCESS: Final = 4


def channels_for(processes: int) -> int:
    """Say how many connections a server of so many processes wants of each that calls it."""
    return 1 if processes == 1 else _PER_PROCESS * processes


def open_channels(target: str, identity: Identity | None, count: int, options: Options = ()) -> grpc.aio.Channel:
    """Open channels that are used as one: a call goes where the fewest are under way."""
    if count == 1:
        return open_channel(target, identity, options)
    # Without a pool of its own a channel would use the connection of the first.
    apart = (*options, ("grpc.use_local_subchannel_pool", 1))
    return cast("grpc.aio.Channel", _Channels([open_channel(target, identity, apart) for _ in range(count)]))


class _Channels:
    """As much of a channel as stubs use."""

    def __init__(self, channels: list[grpc.aio.Channel]) -> None:
        self._channels = channels
        self._under_way = [0] * len(channels)

    def unary_unary(self, *method: Any, **named: Any) -> Callable[..., Any]:
        return self._spread([channel.unary_unary(*method, **named) for channel in self._channels])

    def stream_stream(self, *method: Any, **named: Any) -> Callable[..., Any]:
        return self._spread([channel.stream_stream(*method, **named) for channel in self._channels])

    async def close(self, grace: float | None) -> None:
        for channel in self._channels:
            await channel.close(grace)

    def _spread(self, methods: list[Any]) -> Callable[..., Any]:
        under_way = self._under_way

        def call(*request: Any, **named: Any) -> Any:
            place = under_way.index(min(under_way))
            made = methods[place](*request, **named)

            def done(_: Any) -> None:
                under_way[place] -= 1

            under_way[place] += 1
            made.add_done_callback(done)
            return made

        return call
