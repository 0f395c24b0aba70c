"""Events of event cameras: files, a simulator, representations and data sets."""

from neuromix.data.events.dataset import EventDataset, open_events
from neuromix.data.events.formats import read_events, write_events
from neuromix.data.events.representations import (
    Representation,
    frames_by_count,
    frames_by_time,
    point_cloud,
    register_representation,
    time_surface,
    voxel_grid,
)
from neuromix.data.events.simulator import Camera, simulate
from neuromix.data.events.tonic_bridge import from_tonic
from neuromix.data.events.value import Events

__all__ = [
    "Camera",
    "EventDataset",
    "Events",
    "Representation",
    "frames_by_count",
    "frames_by_time",
    "from_tonic",
    "open_events",
    "point_cloud",
    "read_events",
    "register_representation",
    "simulate",
    "time_surface",
    "voxel_grid",
    "write_events",
]
