"""Server-sent events: how far an analysis is, until it ends."""

__all__ = ["stream"]

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool

from segcal.errors import SegcalError
from segcal.ledger.store import is_away
from segcal.service.api_models import AnalysisStatus

EVERY_S, HEARTBEAT_S = 1.0, 10.0
OVER = ("finished", "failed", "cancelled")


async def stream(read: Callable[[], AnalysisStatus], stops: Callable[[], bool]) -> AsyncIterator[str]:
    """`progress` whenever something changes, `end` last; comments between, so that proxies keep the line open.

    A store that is away for a while is no end. The stream ends without `end` where the service stops: who listens asks
    again, and is told where it stands.
    """
    last, silent_s, number = "", 0.0, 0
    while not stops():
        try:
            status = await run_in_threadpool(read)
        except Exception as error:
            if isinstance(error, SegcalError) or not is_away(error):
                raise
            status = None
        content = status.model_dump_json() if status else last
        over = status is not None and status.status in OVER
        if content != last or over:
            number, silent_s, last = number + 1, 0.0, content
            yield f"event: {'end' if over else 'progress'}\nid: {number}\ndata: {content}\n\n"
        if over:
            return
        if silent_s >= HEARTBEAT_S:
            silent_s = 0.0
            yield ": alive\n\n"
        await asyncio.sleep(EVERY_S)
        silent_s += EVERY_S
