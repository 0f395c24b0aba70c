"""Changes of events: another size of sensor, a part of it, a part of the time, shifted, mirrored.

All are functions of their arguments alone and keep the order of the events.
"""

from __future__ import annotations

from neuromix.core.errors import ConfigError
from neuromix.data.events.value import Events


def resized(events: Events, height: int, width: int) -> Events:
    """The events on a sensor of another size: x' = floor(x * width' / width), y' likewise.

    Every event stays one. Where the new sensor is smaller, a pixel has the events of several old ones; where it is
    larger, some pixels have none.

    Raises:
        ConfigError: height or width below 1.
    """
    if min(height, width) < 1:
        raise ConfigError(f"a sensor has at least one pixel; given {height} x {width}")
    if (height, width) == (events.height, events.width):
        return events
    x_N = events.x_N.astype("int64") * width // events.width
    y_N = events.y_N.astype("int64") * height // events.height
    return Events(events.t_N, x_N, y_N, events.p_N, height, width)


def cropped(events: Events, top: int, left: int, height: int, width: int) -> Events:
    """The events of a window, as those of a sensor of its size; what lies outside is left out."""
    x_N, y_N = events.x_N - left, events.y_N - top
    inside_N = (x_N >= 0) & (x_N < width) & (y_N >= 0) & (y_N < height)
    return Events(events.t_N[inside_N], x_N[inside_N], y_N[inside_N], events.p_N[inside_N], height, width)


def centre_cropped(events: Events, height: int, width: int) -> Events:
    """The events of a window in the middle of the sensor."""
    return cropped(events, (events.height - height) // 2, (events.width - width) // 2, height, width)


def shifted(events: Events, down: int, right: int) -> Events:
    """The events moved by whole pixels; those that leave the sensor are left out."""
    return cropped(events, -down, -right, events.height, events.width)


def mirrored(events: Events) -> Events:
    """The events with left and right exchanged."""
    return Events(
        events.t_N, events.width - 1 - events.x_N, events.y_N, events.p_N, events.height, events.width
    )


def window(events: Events, start: int, duration: int) -> Events:
    """The events of [start, start + duration) microseconds, with times from 0 on."""
    kept = events.select((events.t_N >= start) & (events.t_N < start + duration))
    return Events(kept.t_N - start, kept.x_N, kept.y_N, kept.p_N, events.height, events.width)


def clip(events: Events, duration: int, share: float) -> Events:
    """The events of a window in the course of a recording, with times from 0 on; all of one that is shorter.

    Args:
        duration: microseconds.
        share: in [0, 1], where it lies: 0 begins with the first event, 1 ends with the last.
    """
    spare = max(events.duration + 1 - duration, 0)
    first = int(events.t_N[0]) if events.size else 0
    return window(events, first + round(share * spare), duration)
