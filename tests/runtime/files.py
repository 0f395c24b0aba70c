"""Small `.nmx` files, written by hand, and what they compute in plain PyTorch.

Shapes: T spike time (1 for what is the same at every step), C channels, H W map; O output channels.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors.numpy import save
from torch import Tensor
from torch.nn import functional as F

Keys = dict[str, Any]


class Net:
    """A network in the making: node 0 is its input, the last one its output."""

    def __init__(self, *input_shape: int, readout: str = "mean", time_steps: int = 4) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.keys: list[Keys] = []  # of each node, with its weights as tensors
        self.graph: Keys = {
            "version": 1,
            "name": "by hand",
            "input": list(input_shape),
            "time_steps": time_steps,
            "readout": readout,
            "classes": [],
            "output": 0,
            "nodes": [],
        }
        self._zeros: list[Tensor] = []  # what the nodes give for zeros
        self._append("input", (), torch.zeros(1, *input_shape), {})

    def add(self, op: str, *inputs: int, **keys: Any) -> int:
        """Appends a node; its shape is found by running it on zeros."""
        zero = OPS[op](keys, *(self._zeros[i] for i in inputs))
        return self._append(op, inputs, torch.zeros_like(zero), keys)

    def conv(self, x: int, weight: Tensor, bias: Tensor | None = None, **keys: Any) -> int:
        plain: Keys = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
        return self.add("conv", x, weight=weight, bias=bias, **{**plain, **keys})

    def lif(self, x: int, **keys: Any) -> int:
        ones = torch.ones(self.shape(x)[0])
        plain: Keys = {
            "decay": 0.5 * ones,
            "gain": 0.75 * ones,
            "offset": 0.125 * ones,
            "threshold": 0.5 * ones,
        }
        plain |= {"reset": "hard", "v_reset": 0.0, "v_init": 0.0, "fire_at": 1.0, "strict": False}
        return self.add("lif", x, **{**plain, **keys})

    def as_type(self, x: int, kind: str) -> int:
        """x as real, binary or integer."""
        if kind == "real":
            return x
        return self.lif(x) if kind == "binary" else self.add("levels", x, gain=3.0, levels=5)

    def shape(self, node: int) -> tuple[int, ...]:
        return tuple(self._zeros[node].shape[1:])

    def data(self, graph: Keys | None = None) -> bytes:
        """The file, with the last node as its output or with another graph."""
        if graph is None:
            graph = {**self.graph, "output": len(self.keys) - 1}
        metadata = {"format": "nmx", "graph": json.dumps(graph)}
        return save({name: tensor.numpy() for name, tensor in self.tensors.items()}, metadata)

    def changed(self, change: Callable[[Keys], None]) -> bytes:
        """The file with something in its graph changed."""
        graph = copy.deepcopy({**self.graph, "output": len(self.keys) - 1})
        change(graph)
        return self.data(graph)

    def values(self, x_T: Tensor, steps: int) -> list[Tensor]:
        """The value of each node, [T, C, H, W]."""
        values = [x_T]
        for node, keys in zip(self.graph["nodes"][1:], self.keys[1:], strict=True):
            inputs = [values[i] for i in node["inputs"]]
            is_dynamic = node["op"] == "lif" or len({len(x) for x in inputs}) > 1
            if is_dynamic:
                inputs = [x.expand(steps, *x.shape[1:]) for x in inputs]
            values.append(OPS[node["op"]](keys, *inputs))
        return values

    def _append(self, op: str, inputs: tuple[int, ...], zero: Tensor, keys: Keys) -> int:
        index = len(self.keys)
        node = {"op": op, "name": f"{op}{index}", "inputs": list(inputs), "shape": list(zero.shape[1:])}
        for key, value in keys.items():
            if isinstance(value, Tensor):
                self.tensors[f"{op}{index}.{key}"] = value.contiguous()
                node[key] = f"{op}{index}.{key}"
            else:
                node[key] = value
        self._zeros.append(zero)
        self.keys.append(keys)
        self.graph["nodes"].append(node)
        return index


def _row(values: Tensor) -> Tensor:
    return values[:, None, None]


def _conv(k: Keys, x: Tensor) -> Tensor:
    options = (tuple(k["stride"]), tuple(k["padding"]), tuple(k["dilation"]), k["groups"])
    if k["weight"].dtype != torch.int8:
        return F.conv2d(x, k["weight"], k["bias"], *options)
    y = F.conv2d(x, k["weight"].float(), None, *options) * _row(k["scale"])
    return y if k["bias"] is None else y + _row(k["bias"])


def _lif(k: Keys, x_T: Tensor) -> Tensor:
    decay, gain, offset, threshold = (_row(k[name]) for name in ("decay", "gain", "offset", "threshold"))
    v, outputs = torch.full_like(x_T[0], k["v_init"]), []
    for x in x_T:
        h = decay * v + gain * x + offset
        fire = k["fire_at"] * threshold
        s = (h > fire if k["strict"] else h >= fire).float()
        v = {"hard": torch.where(s > 0, k["v_reset"], h), "soft": h - s * threshold, "none": h}[k["reset"]]
        outputs.append(h if k["reset"] == "none" else s)
    return torch.stack(outputs)


def _padded(k: Keys, x: Tensor, value: float) -> Tensor:
    (rows, columns) = k["padding"]
    return F.pad(x, (columns, columns, rows, rows), value=value)


def _max_pool(k: Keys, x: Tensor) -> Tensor:
    return F.max_pool2d(_padded(k, x, -torch.inf), k["kernel"], k["stride"])


def _avg_pool(k: Keys, x: Tensor) -> Tensor:
    def sums(x: Tensor) -> Tensor:
        return F.avg_pool2d(_padded(k, x, 0.0), k["kernel"], k["stride"], divisor_override=1)

    return sums(x) / (k["kernel"][0] * k["kernel"][1] if k["count_padding"] else sums(torch.ones_like(x)))


def _attend(k: Keys, *qkv: Tensor) -> Tensor:
    q, key, v = (x.unflatten(1, (k["heads"], -1)).flatten(3) for x in qkv)  # T, heads, channels, tokens
    return k["scale"] * ((v @ key.mT) @ q).reshape(qkv[0].shape)


def _positions(x: Tensor) -> Tensor:
    return x.sum((2, 3), keepdim=True)


OPS: dict[str, Callable[..., Tensor]] = {
    "conv": _conv,
    "lif": _lif,
    "levels": lambda k, x: torch.floor((k["gain"] * x).clamp(0, k["levels"]) + 0.5),
    "affine": lambda k, x: x * _row(k["scale"]) + _row(k["shift"]),
    "add": lambda k, *x: sum(x[1:], x[0]),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "mean": lambda k, x: (_positions(x.double()) / (x.shape[2] * x.shape[3])).float(),
    "attend": _attend,
    "token_sum": lambda k, a, b=None: _positions(a if b is None else a * b),
    "gate": lambda k, g, x: g * x,
}


class Draw:
    """Random numbers; dyadic ones are exact in all sums here."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def dyadic(self, *shape: int) -> Tensor:
        return self.integers(-16, 16, *shape) / 8

    def real(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def one_of(self, *choices: Any) -> Any:
        return choices[int(self.integers(0, len(choices) - 1, 1))]


def network(draw: Draw, channels: int = 64, side: int = 8) -> Net:
    """With residuals, attention, a static stem, and numbers of no exact arithmetic."""
    net, more = Net(3, side, side), channels + 6
    stem = net.conv(0, draw.real(channels, 3, 3, 3), draw.real(channels), padding=[1, 1])
    trunk = net.add("affine", stem, scale=draw.real(channels), shift=draw.real(channels))
    for _ in range(2):
        spikes = net.lif(trunk)
        q, k, v = (net.lif(net.conv(spikes, draw.real(channels, channels, 1, 1) / 8)) for _ in range(3))
        attended = net.lif(net.add("attend", q, k, v, heads=4, scale=0.125))
        trunk = net.add(
            "add", trunk, net.conv(attended, draw.real(channels, channels, 1, 1) / 4, draw.real(channels))
        )
        hidden = net.lif(
            net.conv(net.lif(trunk), draw.real(more, channels, 3, 3) / 16, padding=[1, 1]), reset="soft"
        )
        small = draw.integers(-127, 127, channels, more, 1, 1).to(torch.int8)
        trunk = net.add(
            "add", net.conv(hidden, small, draw.real(channels), scale=draw.real(channels) / 256), trunk
        )
    net.conv(net.add("mean", net.lif(trunk)), draw.real(10, channels, 1, 1), draw.real(10))
    return net


def every_op() -> Net:
    """With every op and every key."""
    draw, net = Draw(), Net(4, 6, 6)
    small = draw.integers(-8, 8, 4, 2, 3, 3).to(torch.int8)
    net.conv(0, small, draw.dyadic(4), padding=[1, 1], groups=2, scale=torch.ones(4))  # 1
    net.lif(1)  # 2
    net.lif(1)  # 3
    net.add("attend", 2, 3, 2, heads=2, scale=0.5)  # 4
    net.add("levels", 4, gain=1.0, levels=4)  # 5
    net.add("affine", 5, scale=torch.ones(4), shift=torch.ones(4))  # 6
    net.add("max_pool", 6, kernel=[2, 2], stride=[2, 2], padding=[0, 0])  # 7
    net.add("avg_pool", 7, kernel=[3, 3], stride=[1, 1], padding=[1, 1], count_padding=True)  # 8
    net.add("token_sum", 2, 3)  # 9
    net.add("gate", net.lif(9), 2)  # 10, 11
    net.add("add", net.add("mean", 8), net.add("mean", 11))  # 12, 13, 14
    return net


def random_network(draw: Draw) -> Net:
    """Any ops on any values of one shape, the last ones summed up."""
    net, channels = Net(6, 4, 4), 6
    types = {0: "real"}
    for _ in range(14):
        x, y = (int(draw.one_of(*types)) for _ in range(2))
        binary = [node for node, kind in types.items() if kind == "binary"]
        op = draw.one_of(
            "conv", "conv", "conv", "lif", "levels", "affine", "add", "add", "max_pool", "attend"
        )
        if op in ("lif", "levels") and types[x] != "real":
            continue
        if op == "conv":
            node = net.conv(x, draw.real(6, 6, 3, 3) / 3, draw.real(6), padding=[1, 1])
        elif op == "lif":
            node = net.lif(x, reset=draw.one_of("hard", "soft", "none"))
        elif op == "levels":
            node = net.add("levels", x, gain=2.0, levels=4)
        elif op == "affine":
            node = net.add("affine", x, scale=draw.real(channels), shift=draw.real(channels))
        elif op == "add":
            node = net.add("add", x, y)
        elif op == "max_pool":
            node = net.add("max_pool", x, kernel=[3, 3], stride=[1, 1], padding=[1, 1])
        elif binary:
            node = net.add("attend", *(draw.one_of(*binary) for _ in range(3)), heads=2, scale=0.25)
        else:
            continue
        is_event = {"lif": net.keys[node].get("reset") != "none", "levels": True, "max_pool": True}
        kind = {"lif": "binary", "levels": "integer", "max_pool": types[x]}.get(op, "real")
        types[node] = kind if is_event.get(op, False) else "real"
    net.add("mean", net.add("add", *list(types)[-3:], 0))
    return net
