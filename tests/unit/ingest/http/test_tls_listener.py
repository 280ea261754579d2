"""The listener with TLS without a network: what it does when accepting itself fails."""

import asyncio
import logging
import ssl

from ingest.http.bounds import ConnectionBounds
from ingest.http.tls import TlsListener


class Broken:
    """A listening socket of which accept fails in an unheard-of way."""

    def setblocking(self, _):
        pass

    def gettimeout(self):
        raise ZeroDivisionError


def test_a_listener_that_can_not_accept_any_more_ends_the_process_and_says_why(caplog):
    async def body():
        failed = asyncio.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        listener = TlsListener(
            Broken(), context, asyncio.Protocol, (), ConnectionBounds(), failed.set
        )
        await asyncio.wait_for(failed.wait(), 10)
        listener.close()
        await listener.wait_closed()

    asyncio.run(body(), debug=True)
    [record] = [r for r in caplog.records if r.name == "stepclock.gateway"]
    assert record.levelno == logging.CRITICAL
    assert record.exc_info[0] is ZeroDivisionError
