"""The engine's tables: flows, their runs, and the beats that found them."""

from .beat import DataFlowBeat
from .data_flow import NEVER_SCHEDULED, DataFlow
from .data_flow_run import DataFlowRun, RunStatus, Trigger
from .meta import EngineBase, is_engine_table, table_of
from .obstacle import Obstacle

__all__ = [
    "NEVER_SCHEDULED",
    "DataFlow",
    "DataFlowBeat",
    "DataFlowRun",
    "EngineBase",
    "Obstacle",
    "RunStatus",
    "Trigger",
    "is_engine_table",
    "table_of",
]
