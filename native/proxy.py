"""A TCP proxy that does to a connection what networks do: cut it, freeze it, slow it down."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine, Iterable
from typing import Any, Self

from native.ports import LOOPBACK, free_ports

CHUNK_BYTES = 64 * 1024
# Linger on, for no time: closing then sends RST instead of FIN.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Direction:
    """One way through the proxy: how it flows now, and how much has passed."""

    def __init__(self) -> None:
        self.bytes = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None

    async def admit(self, size: int) -> None:
        """Wait for as long as a chunk of this size is to be held up, then count it."""
        delay_s = self.delay_s + (size / self.bytes_per_s if self.bytes_per_s else 0.0)
        if delay_s:
            await asyncio.sleep(delay_s)
        await self.flowing.wait()  # last, so that nothing passes once it is frozen
        self.bytes += size


class Proxy:
    """Listens on a free port of the loopback interface and forwards to a target.

    All methods may be called from any thread, and have taken effect when they return. The
    port stays the same for life. Connections that the target ends or refuses are ended for
    the client too.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target = (target_host, target_port)
        self.port = free_ports(1)[0]
        #: Connections accepted so far.
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy")
        self._requests = Direction()
        self._answers = Direction()
        self._directions = (self._requests, self._answers)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def open_connections(self) -> int:
        """Clients connected now."""
        return len(self._tasks)

    @property
    def request_bytes(self) -> int:
        """Bytes passed from clients to the target."""
        return self._requests.bytes

    @property
    def answer_bytes(self) -> int:
        """Bytes passed from the target to clients."""
        return self._answers.bytes

    def cut(self) -> None:
        """Reset all connections and refuse new ones, until restored."""
        self._run(self._cut())

    def freeze(self, *, answers_only: bool = False) -> None:
        """Keep and accept connections but pass nothing, until restored.

        With answers_only requests still reach the target: it acts, and nobody hears of it.
        """
        self._run(self._freeze([self._answers] if answers_only else self._directions))

    def slow(
        self, delay_s: float, bytes_per_s: float | None = None, *, answers_only: bool = False
    ) -> None:
        """Until restored, hold up each chunk (up to 64 KiB) each way, and limit the rate.

        With answers_only requests pass as they come: a short answer is late by delay_s, however
        large its request was.
        """
        slowed = [self._answers] if answers_only else self._directions
        self._run(self._set_pace(slowed, delay_s, bytes_per_s))

    def restore(self) -> None:
        """End every fault. What was frozen goes on its way."""
        self._run(self._restore())

    def __enter__(self) -> Self:
        """The proxy, listening."""
        self._thread.start()
        self._run(self._restore())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, action: Coroutine[Any, Any, None]) -> None:
        """Act on the thread of the loop, between two steps of any connection."""
        asyncio.run_coroutine_threadsafe(action, self._loop).result()

    async def _cut(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            for listening in server.sockets:
                self._loop.remove_reader(listening.fileno())
            # Connections that are accepted by now begin here: a server that is closed loses them.
            await asyncio.sleep(0)
            server.close()
        for writer in self._open:
            _reset(writer)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _freeze(self, directions: Iterable[Direction]) -> None:
        for direction in directions:
            direction.flowing.clear()

    async def _set_pace(
        self, directions: Iterable[Direction], delay_s: float, bytes_per_s: float | None
    ) -> None:
        for direction in directions:
            direction.delay_s, direction.bytes_per_s = delay_s, bytes_per_s

    async def _restore(self) -> None:
        await self._set_pace(self._directions, 0.0, None)
        for direction in self._directions:
            direction.flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, from connection to end."""
        if self._server is None:  # accepted just before the cut
            _reset(writer)
            return
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        writers = [writer]
        try:
            await self._requests.flowing.wait()
            target_reader, target_writer = await asyncio.open_connection(*self.target)
            self._open.add(target_writer)
            writers.append(target_writer)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, target_writer, self._requests))
                pumps.create_task(_pump(target_reader, writer, self._answers))
        except* (OSError, asyncio.CancelledError):
            for each in writers:
                _reset(each)  # a broken half breaks the other
        finally:
            self._tasks.discard(task)
            self._open.difference_update(writers)
            for each in writers:
                each.close()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
) -> None:
    """Pass everything on, and the end of it: a half-closed connection stays half open."""
    while chunk := await reader.read(CHUNK_BYTES):
        await direction.admit(len(chunk))
        writer.write(chunk)
        await writer.drain()
    await direction.admit(0)
    writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if not writer.transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
