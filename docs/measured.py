"""Tables of figures that were measured, from `results/`.

`generate.py` puts them into their places.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from neuromix.bench.layers import ROW, SPIKES
from neuromix.report import numbers

RESULTS = Path(__file__).resolve().parents[1] / "results"


def side_by_side(name: str) -> str:
    """What `neuromix bench NAME` found: time and peak memory of every contestant, set-up by set-up."""
    command = f"`neuromix bench {name} --out results/bench_{name}.json`"
    if not (RESULTS / f"bench_{name}.json").is_file():
        return f"There is no record yet; {command} makes one."
    found = result(f"bench_{name}")
    rows = [
        (set_up, contestant, f"{1e3 * one['median_s']:.1f} ms", f"{one['peak_bytes'] / 1e6:.0f} MB")
        for set_up, measured in found["measurements"].items()
        for contestant, one in measured.items()
    ]
    about = found["environment"]
    lengths = sorted(
        {int(digits[0]) for set_up in found["measurements"] if (digits := re.findall(r"\d+$", set_up))}
    )
    options = "".join(f" --length {length}" for length in lengths)
    command = command.replace(" --out", f" --rounds {about['rounds']}{options} --out")
    made = f"{_machine(about)}, {about['threads']} threads. Made by {command}"
    return f"{table(('Set-up', 'Contestant', 'Time', 'Peak memory'), rows)}\n\n{made}."


def system_figures(name: str) -> str:
    """What a benchmark of one system found: the table of results/NAME.json, and the command that made it."""
    if not (RESULTS / f"{name}.json").is_file():
        return f"There is no record yet; `python benchmarks/{name}.py --json results/{name}.json` makes one."
    found = result(name)
    about = f"Made by `{found['command']}`; threads: {found['machine']['threads']}."
    return f"{table(found['table']['columns'], found['table']['rows'])}\n\n{about}"


def demo() -> str:
    """The figures of the demo, from results/demo.json."""
    figures = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))
    spiking, analog = figures["spiking"], figures["analog"]
    rows = [(name, show(spiking), show(analog)) for name, show in _DEMO.items()]
    names = [f"`{twin['model']}`" for twin in (spiking, analog)]
    written = Path(figures["report"]).with_name("demo.json")
    made = f"Made by `{figures['command']}`, then `cp {written} results/demo.json`."
    rows += _engine_rows(figures.get("runtime"))
    return f"{table(('', *names), rows)}\n\n{made}"


_DEMO: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "Accuracy on 500 test images": lambda twin: numbers.percent(twin["accuracy"]),
    "Parameters": lambda twin: f"{twin['parameters']:,}",
    "Dense multiply-adds an image": lambda twin: numbers.count(twin["macs_dense"]),
    "Neurons that fire in a time step": lambda twin: numbers.percent(twin["firing_rate"]),
    "Energy an image, counted exactly": lambda twin: numbers.energy(twin["energy"]["45nm"]),
    "The same, convolutions fused": lambda twin: numbers.energy(twin["fused"]["energy"]["45nm"]),
    "Energy an image, by the papers' rule": lambda twin: numbers.energy(twin["paper"]["energy"]["45nm"]),
}


def _engine_rows(runtime: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """What the event-driven engine did with the spiking network."""
    if runtime is None:
        return []
    programs = [runtime["float32"], runtime["int8"]]
    times = " / ".join(f"{program['milliseconds']:.2f}" for program in programs)
    return [
        ("Time an image, PyTorch on one thread", f"{runtime['pytorch_milliseconds']:.2f} ms", "–"),
        ("Event-driven engine, float32 / int8", f"{times} ms", "–"),
        ("Its accuracy", " / ".join(numbers.percent(program["accuracy"]) for program in programs), "–"),
    ]


def runtime() -> str:
    """The engine against others, from results/bench_runtime.json."""
    found = result("bench_runtime")
    (measured,) = found["measurements"].values()
    about = found["environment"]
    rows = [
        (
            _RUNTIME.get(name, name),
            f"{1e3 * one['median_s']:.0f} ms",
            f"{one['median_s'] / measured['float32']['median_s']:.2f}",
            f"{one['median_s'] / measured['int8']['median_s']:.2f}",
            f"{one['peak_bytes'] / 1e6:.0f} MB",
        )
        for name, one in sorted(measured.items(), key=lambda item: item[1]["median_s"])
    ]
    head = ("", "One image", "Over engine, float32", "Over engine, int8", "Peak memory")
    made = (
        f"`{about['model']}` at {about['side']}x{about['side']}, T = 4, batch 1, {about['threads']} threads, random "
        f"weights with thresholds set so that {about['firing_rate']:.0%} of every neuron layer fires; "
        f"{_machine(about)}. Made by `neuromix bench runtime --out results/bench_runtime.json`."
    )
    return f"{table(head, rows)}\n\n{made}"


def layers() -> str:
    """Where the engine's time goes, from results/bench_runtime.json."""
    found = result("bench_runtime")["layers"]
    programs = ("float32", "int8")
    columns = [column for name in programs for column in (name, f"floor {name}")]
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for name in programs:
        for group in found[name]["layers"]:
            kind, stage = group["kind"], group["stage"]
            for row in (f"{kind}, {stage}" if kind == SPIKES else kind, "all"):
                sums[row, name] += group["seconds"]
                sums[row, f"floor {name}"] += group["floor_seconds"]
    worth_it = {row for (row, _), seconds in sums.items() if seconds > 1e-4}
    rows = [
        (row, *(f"{1e3 * sums[row, column]:.1f} ms" if sums[row, column] else "–" for column in columns))
        for row in sorted(worth_it, key=lambda row: (row == "all", row))
    ]
    rates = " and ".join(f"{1e9 * found[name]['row_seconds']:.2f} ns ({name})" for name in programs)
    about = (
        f"The same image on one thread. The floor is {rates} for every row of {ROW} weights that is added and "
        f"{1e-9 / found['int8']['multiply_seconds']:.0f} billion multiply-adds a second for real values: what the same "
        "engine needs where weights, spikes and sums all lie in the nearest caches. The additions of depthwise "
        "convolutions are not in it."
    )
    return f"{table(('', 'float32', 'its floor', 'int8', 'its floor'), rows)}\n\n{about}"


_RUNTIME = {
    "float32": "Engine, float32",
    "int8": "Engine, int8",
    "eager": "PyTorch",
    "compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "onnxruntime_poolformer_s24": "ONNX Runtime, the analog poolformer_s24",
    "onnxruntime_caformer_s18": "ONNX Runtime, the analog caformer_s18",
}


def comparison() -> str:
    """The models of a comparison, from results/comparison.json."""
    found = result("comparison")
    energy = next(iter(found["energy_models"]))
    rows = [
        (
            f"`{model['name']}`",
            str(model["rank"] or "–"),
            _mean_and_spread(model["summary"]["accuracy"]),
            numbers.energy(model["summary"][f"energy {energy}"]["mean"]),
            f"{1e3 * model['summary']['latency']['mean']:.2f} ms",
            numbers.count(model["summary"]["parameters"]["mean"]),
        )
        for model in sorted(found["models"], key=lambda model: -model["summary"]["accuracy"]["mean"])
    ]
    about = found["environment"]
    head = ("Model", "Rank", "Test accuracy", f"Energy, {energy}", "One image", "Parameters")
    made = (
        f"Mean ± standard deviation over {len(found['seeds'])} seeds; models share a rank where no difference is "
        f"certain. One image at a time on {about['threads']} thread, {_machine(about)}. Made by `{found['command']}`, "
        "then `jq 'del(.models[].runs[] | .layers, .neurons, .raster, .curve, .confusion)' report/comparison.json > "
        "results/comparison.json`."
    )
    return f"{table(head, rows)}\n\n{made}"


def _mean_and_spread(figure: Mapping[str, Any]) -> str:
    return f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f} %"


def training() -> str:
    """Neurons and training steps against other libraries, from results/."""
    lif, step = result("bench_lif"), result("bench_train_step")
    rows = [
        (
            _set_up(name),
            *_against(name, lif["ratios"]),
            _share(lif["ratios"].get(f"neuromix_over_copy_{name}")),
        )
        for name in lif["measurements"]
    ]
    rows += [(_set_up(name), *_against(name, step["ratios"]), "–") for name in step["measurements"]]
    head = ("", "SpikingJelly", "snnTorch", "Norse", "torch.compile", "Of copy bandwidth")
    made = (
        f"Time of the other over ours: above 1, ours is faster. {lif['environment']['threads']} threads, "
        f"{_machine(lif['environment'])}. Made by `neuromix bench lif --out results/bench_lif.json` and "
        "`neuromix bench train-step --out results/bench_train_step.json`."
    )
    return f"{table(head, rows)}\n\n{made}"


def _against(set_up: str, ratios: Mapping[str, float]) -> tuple[str, ...]:
    peers = ("spikingjelly", "snntorch", "norse", "compiled")
    found = [ratios.get(f"{peer}_over_neuromix_{set_up}") for peer in peers]
    return tuple("–" if ratio is None else f"{ratio:.2f}" for ratio in found)


def _share(ours_over_copy: float | None) -> str:
    return "–" if ours_over_copy is None else f"{100 / ours_over_copy:.0f} %"


def _set_up(name: str) -> str:
    kind, _, size = name.partition("_")
    if kind == "vision":
        return f"512 k neurons, {size.replace('T', 'T = ')}"
    if kind == "linear":
        return f"linear {size} + neurons, T = 500, batch 16"
    return f"training step, `{name}`"


def gpu() -> str:
    """Neurons on a GPU against SpikingJelly's kernels and a copy, from results/gpu_lif.json."""
    found = result("gpu_lif")
    by_peer = found["measurements"]
    rows = []
    for name in next(iter(by_peer.values())):
        dtype, steps, neurons = name.split("_")
        shares = sorted(100 / one[name]["ratios"]["neuromix_over_copy"] for one in by_peer.values())
        ratios = [
            by_peer[f"spikingjelly_{peer}"][name]["ratios"].get("spikingjelly_over_neuromix")
            for peer in ("triton", "torch")
        ]
        against = ["–" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        size = f"{dtype}, {steps.replace('T', 'T = ')}, {neurons[:-1]} {neurons[-1]} neurons"
        rows.append((size, f"{shares[0]:.0f} to {shares[-1]:.0f} %", *against))
    about = found["environment"]
    head = ("", "Of copy bandwidth", "SpikingJelly, Triton", "SpikingJelly, PyTorch")
    made = (
        f"{about['device']}, PyTorch {about['torch']}, {about['rounds']} rounds in each of three processes; "
        "SpikingJelly's columns are its time over ours. Made by `python benchmarks/gpu_lif.py > results/gpu_lif.json`."
    )
    return f"{table(head, rows)}\n\n{made}"


def gpu_training() -> str:
    """A run on real images on a GPU, from results/cifar10_gpu*.json."""
    lines = (RESULTS / "cifar10_gpu_metrics.jsonl").read_text(encoding="utf-8").splitlines()
    epochs = [json.loads(line) for line in lines]
    rates = sorted(epoch["samples_per_second"] for epoch in epochs)
    rows = [
        ("Test accuracy", numbers.percent(result("cifar10_gpu")["test"]["accuracy"])),
        ("Epochs", str(epochs[-1]["epoch"])),
        ("Images a second in training, median epoch", f"{rates[len(rates) // 2]:,.0f}"),
    ]
    made = (
        "One run, seed 0, on the GPU of the table above. Made by `neuromix train --task image-classification --data "
        "CIFAR10 --model spiking_preact_resnet18 --set time_steps=4 --set train.workers=14 --batch-size 256 --epochs "
        "15 --json > results/cifar10_gpu.json`; the speed is from `metrics.jsonl` of the run."
    )
    return f"{table(('', '`spiking_preact_resnet18`, T = 4'), rows)}\n\n{made}"


def _machine(about: Mapping[str, Any]) -> str:
    return f"{about['processor']}, PyTorch {about['torch']}"


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; columns of figures are set to the right."""
    right = [
        all(re.fullmatch(r"[\d,.]+( \S+)?|–", row[column]) for row in rows) for column in range(len(head))
    ]
    rule = ["---:" if figures else "---" for figures in right]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
