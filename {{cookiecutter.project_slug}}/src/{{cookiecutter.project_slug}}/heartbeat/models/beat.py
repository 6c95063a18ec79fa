"""A beat's row: when it came, from where, and what it found and did."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from ..db import types
from ..db.text import AnyText
from .meta import EngineBase


class DataFlowBeat(EngineBase):
    """One authorised call of the heartbeat route, or one call of `heartbeat beat`."""

    __tablename__ = "data_flow_beats"

    received_at: Mapped[datetime] = mapped_column(types.StoredTime, index=True)
    source: Mapped[str] = mapped_column(AnyText(200))
    flows_due: Mapped[int] = mapped_column(types.Integer, default=0, server_default="0")
    flows_triggered: Mapped[int] = mapped_column(types.Integer, default=0, server_default="0")
    flows_succeeded: Mapped[int] = mapped_column(types.Integer, default=0, server_default="0")
    flows_failed: Mapped[int] = mapped_column(types.Integer, default=0, server_default="0")
    flows_in_progress: Mapped[int] = mapped_column(types.Integer, default=0, server_default="0")
    runs_reaped: Mapped[int] = mapped_column(types.Integer, default=0, server_default="0")
    duration: Mapped[float | None] = mapped_column(types.Seconds)
