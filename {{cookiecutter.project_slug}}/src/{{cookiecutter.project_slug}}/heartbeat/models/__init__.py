"""The engine's tables: flows, their runs, and the beats that found them."""

from .beat import DataFlowBeat as DataFlowBeat
from .data_flow import NEVER_SCHEDULED as NEVER_SCHEDULED
from .data_flow import DataFlow as DataFlow
from .data_flow_run import DataFlowRun as DataFlowRun
from .data_flow_run import RunStatus as RunStatus
from .data_flow_run import Trigger as Trigger
from .meta import EngineBase as EngineBase
from .meta import is_engine_table as is_engine_table
from .meta import table_of as table_of
from .obstacle import Obstacle as Obstacle
