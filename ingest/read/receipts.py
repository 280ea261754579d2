"""Receipts, `GET /api/v1/receipts/{receipt}`: has it been stored by now."""

from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, Field

from ingest.errors import BadRequest, NotFound
from ingest.keys.auth import KeyStore, key_in_headers
from ingest.read.settlement import Settlement
from schemas.log.protocols import class_of
from schemas.log.receipt import InvalidReceipt, decode
from schemas.tenants.keys import KeyRecord

MAX_WAIT_S = 60.0


class RejectedBlock(BaseModel):
    """Lines of one block that the store refused; they are kept as dead letters."""

    retention_class: str = Field(serialization_alias="class", description="Retention class.")
    partition: int
    offset: int
    lines: int = Field(description="How many lines.")
    view: str = Field(description="Which view refused them: wall or steps.")
    reason: str = Field(description="One word, such as refused or malformed.")
    detail: str = Field(description="The words of whoever refused them.")


class ReceiptAnswer(BaseModel):
    """What became of the blocks of one request."""

    settled: bool = Field(description="The workers have passed all of its blocks.")
    stored: bool | None = Field(
        description="Settled, and no dead letter names them. Good for as long as dead letters are "
        "kept (30 days); a loss accepted with --accept-loss is not seen. null: too long ago to "
        "tell here."
    )
    rejected: list[RejectedBlock] = Field(
        description="Dead letters of its blocks. A block may also hold other requests' lines."
    )


def receipt_routes(keys: KeyStore, settlement: Settlement, classes: Collection[str]) -> APIRouter:
    """The router. classes: the ingest classes, which receipts may name."""

    # No `from __future__ import annotations` here: FastAPI must see the alias below itself.
    def authenticated(request: Request) -> KeyRecord:
        return keys.authenticate(key_in_headers(request.headers.raw))

    caller = Annotated[KeyRecord, Depends(authenticated)]
    router = APIRouter(prefix="/api/v1", tags=["receipts"])

    @router.get("/receipts/{receipt}")
    async def receipt_state(
        receipt: Annotated[
            str, Path(description="The header Stepclock-Receipt.", examples=["1.raw-3-1207"])
        ],
        key: caller,
        wait_s: Annotated[
            float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait until settled.")
        ] = 0.0,
    ) -> ReceiptAnswer:
        """Whether what a 2xx acknowledged is in the store by now."""
        try:
            blocks = decode(receipt)
        except InvalidReceipt as exc:
            raise BadRequest(f"{exc}; send the header Stepclock-Receipt as it was") from exc
        unknown = {block.retention_class for block in blocks} - set(classes)
        if unknown:
            raise NotFound(f"the receipt names class {min(unknown)!r}, which does not exist")
        verdict = await settlement.verdict(blocks, wait_s)
        return ReceiptAnswer(
            settled=verdict.settled,
            stored=verdict.stored,
            rejected=[
                RejectedBlock(
                    retention_class=class_of(lines.topic),
                    partition=lines.partition,
                    offset=lines.offset,
                    lines=lines.lines,
                    view=lines.view,
                    reason=lines.reason,
                    detail=lines.detail,
                )
                for lines in verdict.rejected
                if lines.tenant == key.tenant.name  # others' words are not this caller's
            ],
        )

    return router
