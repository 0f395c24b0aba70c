"""The page of the demo, from plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuromix.measure.spikes import SpikeTrain
from neuromix.report import comparison, numbers
from neuromix.report.blocks import Chart, Code, Facts, Page, Prose, Section, Table, Tile, Tiles
from neuromix.report.deployed import Deployment
from neuromix.report.heatmaps import image, raster
from neuromix.report.measured import Measured


@dataclass(frozen=True)
class Shown:
    """One test image, and what the spiking network did with it."""

    pixels: Sequence[Sequence[float]]  # in [0, 1]
    label: str
    predictions: Sequence[str]  # after 1, 2, ... time steps
    trains: Sequence[SpikeTrain]


def demo_page(
    spiking: Measured,
    analog: Measured,
    shown: Shown,
    deployment: Deployment | None,
    *,
    time_steps: int,
    command: str,
    environment: Mapping[str, str],
    prices: Mapping[str, float],
) -> Page:
    """Lays out the report of `neuromix demo`.

    Args:
        deployment: of the spiking network on the event-driven engine, if it ran there.
        prices: pJ of each operation: `mac32` a multiply-accumulate, `ac32` an addition.
    """
    twins = [spiking, analog]
    return Page(
        title="A spiking network and its analog twin",
        kicker="neuromix demo",
        lead=_lead(spiking, analog, time_steps),
        sections=[
            Section("Side by side", [Tiles(_tiles(spiking, analog)), _figures(twins, time_steps)]),
            Section("How they learned", [comparison.score_curves(twins), comparison.loss_curves(twins)]),
            Section(
                "What an image costs",
                [comparison.energy(twins), Code(_formula(prices)), Prose(_COUNTING)],
                intro="Where a spike arrives, a weight is added; where none does, nothing happens. A layer that "
                "is given real numbers has to multiply.",
            ),
            Section(
                "One image, seen by the neurons",
                [
                    image("The test image", shown.pixels, note=_verdict(shown), span="third"),
                    _raster(shown),
                ],
            ),
            Section(
                "How often neurons fire",
                [comparison.firing_rates(spiking)],
                intro=f"On average {numbers.percent(spiking.firing_rate)} of the neurons fire in a time step. A "
                "layer is named by its place in the network.",
            ),
            *([] if deployment is None else [_engine(deployment)]),
            Section("How this page was made", [Code(command), Facts(environment, span="full")]),
        ],
        footer="Every figure on this page was measured in the run that wrote it.",
    )


def _engine(deployment: Deployment) -> Section:
    """The network as it is deployed."""
    programs = {"float32 weights": deployment.float32, "int8 weights": deployment.int8}
    ratio = deployment.pytorch_milliseconds / deployment.float32.milliseconds
    table = Table(
        columns=["", "accuracy", "same answer as PyTorch", "file", "one image"],
        rows=[
            ["PyTorch", "", "", "", f"{deployment.pytorch_milliseconds:.2f} ms"],
            *(
                [
                    f"Engine, {name}",
                    numbers.percent(program.accuracy),
                    numbers.percent(program.same_class),
                    f"{program.size / 1e6:.2f} MB",
                    f"{program.milliseconds:.2f} ms",
                ]
                for name, program in programs.items()
            ),
        ],
        caption="The spiking network on the event-driven engine",
        notes=[
            f"On {deployment.images} test images; of all neurons and steps, "
            f"{deployment.spike_mismatch:.1g} spike differently in float32 than in PyTorch.",
            "One image at a time on one thread, all in turn on the same images, medians.",
        ],
    )
    return Section(
        "Where spikes save time",
        [table],
        intro="PyTorch multiplies the zeros as well. The engine adds a row of weights up for each spike and does "
        f"nothing for the others: on this machine it takes {ratio:.1f} times less time.",
    )


_COUNTING = (
    "All three rules count the same network on the same images. In the exact one, an addition is counted where a spike "
    "really meets a weight, and a layer multiplies wherever its input is real: the first one, which sees the image, "
    "and any that follows a layer without neurons between.",
    "Fused is the exact count after several convolutions that follow one another have become one, as they would be for "
    "use: the outputs stay the same, and less is left to multiply.",
    "The rule of the paper charges all layers but the first as additions, at the firing rate of their spikes, and "
    "the first one for every time step, though the image does not change.",
    "Only arithmetic is counted: no memory, no control, which on most hardware cost more. The analog network "
    "multiplies everywhere, so that all rules give it the same.",
)


def _figures(twins: Sequence[Measured], time_steps: int) -> Table:
    return comparison.figures(
        twins,
        notes=[
            "Accuracy is that on test images, by which nothing was chosen: validation images selected the weights. "
            "Training and test images come from the same writers.",
            f"Operations and energy are those of one image, over all {time_steps} time steps of the spiking network, "
            "as a mean over the test images.",
        ],
    )


def _formula(prices: Mapping[str, float]) -> str:
    multiply, add = prices["mac32"], prices["ac32"]
    return (
        f"energy = {multiply} pJ × multiply-accumulates + {add} pJ × additions     (32-bit floats, 45 nm)\n\n"
        "exact   additions = spikes that meet a weight, counted one by one\n"
        "fused   the same, after the exact fusion of convolutions\n"
        "paper   additions = time steps × firing rate of the input × multiply-adds of the layer"
    )


def _lead(spiking: Measured, analog: Measured, time_steps: int) -> str:
    ratio = analog.energy["exact"] / spiking.energy["exact"]
    return (
        "Two small networks of about the same size learned to read handwritten digits. One computes with real "
        f"numbers; in the other, neurons send spikes - zeros and ones - over {time_steps} time steps. On test images "
        f"that neither has seen, the spiking one is right in {numbers.percent(spiking.accuracy)} of the cases and the "
        f"analog one in {numbers.percent(analog.accuracy)}; counted exactly, the spiking one takes "
        f"{_times(ratio)} energy."
    )


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times less" if ratio >= 1 else f"{1 / ratio:.1f} times more"


def _tiles(spiking: Measured, analog: Measured) -> list[Tile]:
    ratio = analog.energy["exact"] / spiking.energy["exact"]
    return [
        Tile(
            "Accuracy, spiking",
            numbers.percent(spiking.accuracy),
            f"analog: {numbers.percent(analog.accuracy)}",
        ),
        Tile(
            "Energy, spiking",
            numbers.energy(spiking.energy["exact"]),
            f"analog: {numbers.energy(analog.energy['exact'])}",
        ),
        Tile(
            "Energy against analog",
            f"{max(ratio, 1 / ratio):.1f}×",
            "less than analog" if ratio >= 1 else "more than analog",
        ),
        Tile("Neurons that fire", numbers.percent(spiking.firing_rate), "in a time step, on average"),
    ]


def _verdict(shown: Shown) -> str:
    steps = ", ".join(f"{name} after {t}" for t, name in enumerate(shown.predictions, 1))
    return f"A {shown.label}. The spiking network's answer by number of time steps: {steps}."


def _raster(shown: Shown) -> Chart:
    return raster(
        "Spikes of the spiking network",
        shown.trains,
        note="Each panel is a layer, each row in it one neuron and each column a time step; a mark is a spike. Up to "
        f"{max(len(train.spikes[0]) for train in shown.trains)} neurons of a layer are drawn, chosen at random.",
        span="two-thirds",
    )
