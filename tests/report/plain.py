"""A page of the demo from made-up numbers."""

from __future__ import annotations

import random

from neuromix.measure.spikes import SpikeTrain
from neuromix.report.blocks import Page
from neuromix.report.demo_page import Shown, demo_page
from neuromix.report.deployed import Deployed, Deployment
from neuromix.report.measured import Curve, Measured

CURVE = Curve(epochs=[1, 2, 3], loss=[2.0, float("nan"), 0.5], score=[0.4, 0.8, 0.9])
SPIKING = Measured(
    model="spiking_net",
    role="Spiking",
    accuracy=0.984,
    parameters=267_786,
    macs_dense=15_024_128,
    synaptic_operations={"exact": 1.79e6, "fused": 2e6, "paper": 2.33e6},
    firing_rate=0.144,
    energy={"exact": 0.00517, "fused": 0.004, "paper": 0.00218},
    multiplying={"exact": 0.00356, "fused": 0.001, "paper": 0.0001},
    seconds=73.2,
    curve=CURVE,
    layers={
        "stages.0.blocks.0.mixer.branch.neuron": 0.2,
        "stages.1.downsample.neuron": 0.1,
        "head.neuron": 0.3,
    },
)
ANALOG = Measured(
    model="analog_net",
    role="Analog",
    accuracy=0.99,
    parameters=226_258,
    macs_dense=1_526_208,
    synaptic_operations={"exact": 0.0, "fused": 0.0, "paper": 0.0},
    firing_rate=None,
    energy={"exact": 0.00702, "fused": 0.00702, "paper": 0.00702},
    multiplying={"exact": 0.00702, "fused": 0.00702, "paper": 0.00702},
    seconds=12.0,
    curve=CURVE,
)


def page() -> Page:
    chance = random.Random(0)
    trains = [
        SpikeTrain(name, 512, [[int(chance.random() < 0.2) for _ in range(32)] for _ in range(4)])
        for name in ("stage 0", "stage 1", "head")
    ]
    return demo_page(
        SPIKING,
        ANALOG,
        Shown([[0.0, 1.0], [0.5, 0.25]], "7", ["1", "7", "7", "7"], trains),
        Deployment(
            500,
            12.5,
            0.0,
            float32=Deployed("float32.nmx", 1_132_584, 0.98, 1.0, 0.86),
            int8=Deployed("int8.nmx", 535_904, 0.984, 0.992, 0.64),
        ),
        time_steps=4,
        command="neuromix demo --out '<folder>'",
        environment={"torch": "2.13.0"},
        prices={"mac32": 4.6, "ac32": 0.9},
    )
