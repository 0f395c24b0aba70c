"""The surrogate derivatives, for kernels: formulas as in neuromix.neurons.surrogate."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def slope_at(u, shape, scale, KIND: tl.constexpr, CLOSED: tl.constexpr):
    """ds/du at the distance `u` from the threshold; `shape` is alpha or width, of the type of `u` as `scale`."""
    distance = tl.abs(u)
    if KIND == "sigmoid":
        e = tl.exp(-shape * distance)
        slope = shape * scale * e / ((1 + e) * (1 + e))
    elif KIND == "atan":
        z = 1.5707963267948966 * shape * u
        slope = shape / 2 * scale / (1 + z * z)
    elif KIND == "triangle":
        rest = 1 - distance / shape
        slope = tl.where(rest > 0, rest, 0.0) * scale / shape
    elif KIND == "rectangle":
        inside = distance <= shape / 2 if CLOSED else distance < shape / 2
        slope = tl.where(inside, scale / shape, 0.0)
    elif KIND == "fast_sigmoid":
        d = 1 + shape * distance
        slope = scale / (d * d)
    else:
        tl.static_assert(KIND == "erf")
        z = shape * u
        slope = shape * scale * 0.5641895835477563 * tl.exp(-z * z)
    return slope
