from __future__ import annotations

import pytest
import torch

from neuromix import create_model
from neuromix.bench.layers import KINDS, REAL, SEPARABLE, SPIKES, layer_times
from neuromix.runtime import load, lower, quantize, write_program

pytest.importorskip("neuromix._runtime", reason="the engine is not built")


@pytest.mark.parametrize("small", [False, True], ids=["float32", "int8"])
def test_layers_are_those_of_the_report(tmp_path, small):
    model, image = create_model("meta_spikeformer_nano").eval(), torch.rand(1, 1, 8, 8)
    program = lower(model, input_shape=(1, 8, 8), factored=False)
    path = tmp_path / "net.nmx"
    write_program(quantize(program, image) if small else program, path)
    found = layer_times(path, image[0].numpy(), rounds=2)

    session = load(path).session()
    session.run(image[0].numpy())
    report = session.report()
    for key in ("operations", "weight_bytes"):
        assert sum(group[key] for group in found["layers"]) == sum(layer[key] for layer in report)
    assert sum(group["layers"] for group in found["layers"]) == len(report)
    assert len({(group["stage"], group["kind"]) for group in found["layers"]}) == len(found["layers"])
    kinds = {group["kind"]: group for group in found["layers"]}
    assert {SPIKES, SEPARABLE, REAL} <= kinds.keys() <= set(KINDS)
    assert kinds[REAL]["floor_seconds"] == pytest.approx(
        kinds[REAL]["operations"] * found["multiply_seconds"]
    )
    spikes = [group for group in found["layers"] if group["kind"] == SPIKES]
    assert all(
        group["floor_seconds"] == pytest.approx(group["operations"] * found["row_seconds"] / 64)
        for group in spikes
    )
