"""The engine counts what the profile counts."""

from __future__ import annotations

import pytest
import torch

from neuromix.bench.rates import firing_model
from neuromix.core.batch import Batch
from neuromix.measure.profile import profile
from neuromix.measure.rules import counting_rule
from neuromix.runtime import Network, lower
from neuromix.runtime.program_file import to_bytes

pytest.importorskip("neuromix._runtime")


def test_synaptic_operations() -> None:
    model = firing_model("meta_spikeformer_nano", rate=0.25, side=8)
    image_BCHW = torch.randn(1, 1, 8, 8)
    rule = counting_rule("exact").replace(structure="fused")
    measured = profile(model, Batch({"image": image_BCHW}), rule)
    session = Network(to_bytes(lower(model, input_shape=(1, 8, 8), factored=False))).session()
    session.run(image_BCHW[0].numpy())
    report = session.report()

    of_layers = {
        layer.path: layer.synaptic_operations for layer in measured.layers if layer.synaptic_operations
    }
    convolutions = {node["name"]: node["operations"] for node in report if node["op"] == "conv"}
    compared = of_layers.keys() & convolutions.keys()
    assert len(compared) > 20
    for path in compared:
        assert convolutions[path] == of_layers[path], path
    # Attention, which the profile has under the module that does it.
    by_spikes = [node for node in report if node["activity"] is not None or node["op"] == "attend"]
    assert sum(node["operations"] for node in by_spikes) == measured.synaptic_operations
