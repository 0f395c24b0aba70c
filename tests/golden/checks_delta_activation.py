"""Checks of the delta fixtures: the layer with its gradients and counters, and inference on changes.

Shapes: T frames, B batch, C channels, H W map.
"""

from __future__ import annotations

import re

from torch import Tensor
from torch.nn import functional as F

from neuromix.core.observe import record
from neuromix.layers.delta import DeltaActivation, DeltaConfig, counted_events
from tests.golden.compare import assert_close, assert_equal
from tests.golden.fixtures import Fixture

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def check_layer(fixture: Fixture) -> None:
    told = dict(part.split(":", 1) for part in str(fixture.config["cases"]).split(";"))
    cases = {name.rpartition(".")[0] for name in fixture.inputs if "." in name}
    assert cases == {name.strip() for name in told}
    for name, about in told.items():
        _check_case(fixture, name.strip(), about)


def _check_case(fixture: Fixture, case: str, about: str) -> None:
    def read(name: str) -> Tensor:
        return fixture.inputs[f"{case}.{name}"].double()

    x_BTHWC, threshold = read("x"), read("threshold")
    layer = DeltaActivation(_config(fixture, case, about), _first(x_BTHWC).shape[2:]).double()
    layer.threshold.data = _channels_first(threshold)
    if f"{case}.bias" in fixture.inputs:
        assert layer.bias is not None
        layer.bias.data = read("bias")
    x_T = _first(x_BTHWC).requires_grad_()
    with record(layer, "aux_loss") as losses, counted_events(layer) as counts:
        y_T = layer(x_T)
    loss = losses["aux_loss"][0]
    found = {"y": _last(y_T), "loss": loss}
    for name in found:
        assert_close(found[name], fixture.outputs[f"{case}.{name}"], name=f"{name} of {case}", **CLOSE)
    ((y_T * _first(read("gy"))).sum() + loss).backward()
    gradients = {"x": _last(x_T.grad), "threshold": _channels_last(layer.threshold.grad)}
    if layer.bias is not None:
        gradients["bias"] = layer.bias.grad
    assert {name.removeprefix(f"{case}.") for name in fixture.grads if name.startswith(f"{case}.")} == set(
        gradients
    )
    for name, gradient in gradients.items():
        assert_close(gradient, fixture.grads[f"{case}.{name}"], name=f"gradient of {name} of {case}", **CLOSE)
    assert counts[""].events == int(fixture.outputs[f"{case}.n_spikes"])
    assert counts[""].elements == int(fixture.outputs[f"{case}.n_neurons"])


def _config(fixture: Fixture, case: str, about: str) -> DeltaConfig:
    """What the words of a case mean, and what the shape of its thresholds tells."""
    threshold = fixture.inputs[f"{case}.threshold"]
    level = re.search(r"delta_level (\d)", about)
    activation = re.search(r"\b(relu|softmax)\b", about)
    pool = re.search(r"max_pool (\d+)", about)
    granularity = "neuron" if threshold.dim() > 1 else "layer" if "one threshold" in about else "channel"
    return DeltaConfig(
        level=int(level[1]) if level else 0,
        background="released",
        granularity=granularity,
        bias=f"{case}.bias" in fixture.inputs,
        activation=activation[1] if activation else "none",
        sum="cumulative sum" in about or "sigma" in about,
        max_pool=int(pool[1]) if pool else None,
        penalty=fixture.config["sp_rate"],
        fan_out=fixture.config["n_outputs"],
    )


def _first(x_BTC: Tensor) -> Tensor:
    """[B, T, ..., C] to [T, B, C, ...]."""
    return x_BTC.transpose(0, 1).movedim(-1, 2).contiguous()


def _last(x_TBC: Tensor) -> Tensor:
    return x_TBC.movedim(2, -1).transpose(0, 1)


def _channels_first(x_C: Tensor) -> Tensor:
    return x_C.movedim(-1, 0).contiguous()


def _channels_last(x_C: Tensor) -> Tensor:
    return x_C.movedim(0, -1)


def check_inference(fixture: Fixture) -> None:
    weights = {name: tensor.double() for name, tensor in fixture.state.items()}
    x_T = fixture.inputs["x"].double().transpose(0, 1)
    for level in (0, 1):
        send, hidden, read = _layers(weights, level)
        d0_T = send(x_T)
        d1_T = hidden(F.linear(d0_T, weights["W1"]))
        y_T = read(F.linear(d1_T, weights["W2"]))
        found = {"y": y_T, "d0": d0_T, "d1": d1_T} if level else {"y": y_T, "h": d1_T}
        for name, tensor in found.items():
            expected = fixture.outputs[name]
            assert_close(
                tensor.transpose(0, 1), expected, name=f"{name} at level {level}", rtol=1e-12, atol=1e-12
            )
    assert_equal(d1_T.cumsum(0).round(decimals=9), fixture.outputs["h"].transpose(0, 1).round(decimals=9))


def _layers(weights: dict[str, Tensor], level: int):
    """The quantiser of the input, that of the hidden units, and the sum at the end, on frames or on changes."""
    summed = bool(level)
    send = DeltaActivation(DeltaConfig(level=level), weights["q0"].shape).double()
    hidden = DeltaActivation(
        DeltaConfig(level=level, sum=summed, bias=True, activation="relu"), weights["q1"].shape
    ).double()
    send.threshold.data, hidden.threshold.data = weights["q0"], weights["q1"]
    assert hidden.bias is not None
    hidden.bias.data = weights["b1"]

    def read(x_T: Tensor) -> Tensor:
        return (x_T.cumsum(0) if summed else x_T) + weights["b2"]

    return send, hidden, read


CHECKS = {
    ("delta-activation", "layer"): check_layer,
    ("delta-activation", "delta_inference"): check_inference,
}
