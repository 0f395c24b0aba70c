"""Tables of the documentation that are not written by hand: from the registry and from `results/`.

    python docs/generate.py            # brings README.md up to date
    python docs/generate.py --check    # fails where it is not

In the README the tables stand in the text, between markers, so that they can be read where it lies; on the pages of
the site they are put between the same markers while it is built (this file is a hook of mkdocs).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from neuromix.core import registry
from neuromix.core.registry import Entry
from neuromix.measure.energy import energy_models
from neuromix.report import numbers

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
_MARKED = re.compile(r"(<!-- generated: (?P<name>[\w-]+)[^>]*-->)\n.*?(<!-- end of generated -->)", re.DOTALL)

# What the keys of `published` mean to a reader; a key that is not here is shown as it is.
PUBLISHED = {
    "parameters_m": "{} M parameters",
    "gmacs": "{} G multiply-adds",
    "gmacs_without_norms": "{} G of them without norms (counted on the authors' code)",
    "frozen_parameters": "{:,} frozen parameters",
    "parameters_in_training": "{:,} parameters in training",
    "miou": "mIoU {} %",
    "seen": "{} % on classes of the training",
    "unseen": "{} % on unseen classes",
    "top1": "top-1 {} %",
    "top1_t1": "top-1 {} % at T = 1",
    "top1_t4": "top-1 {} % at T = 4",
    "mj_t1": "{} mJ at T = 1",
    "mj_t4": "{} mJ at T = 4",
}
# How figures are counted, not what they are.
_ABOUT_COUNTING = ("parameters", "scope", "counting", "gmacs_at")


def fill(text: str) -> str:
    """The text with a fresh table between each pair of markers."""
    return _MARKED.sub(lambda marked: f"{marked[1]}\n{_table(marked['name'])}\n{marked[3]}", text)


def _table(name: str) -> str:
    kind, _, ledger = name.partition("-")
    of_files = {"ledger": system_figures, "bench": side_by_side}
    return of_files[kind](ledger) if kind in of_files else TABLES[name]()


def side_by_side(name: str) -> str:
    """What `neuromix bench NAME` found: time and peak memory of every contestant, set-up by set-up."""
    command = f"`neuromix bench {name} --out results/bench_{name}.json`"
    if not (RESULTS / f"bench_{name}.json").is_file():
        return f"There is no record yet; {command} makes one."
    found = _result(f"bench_{name}")
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
    found = _result(name)
    about = f"Made by `{found['command']}`; threads: {found['machine']['threads']}."
    return f"{table(found['table']['columns'], found['table']['rows'])}\n\n{about}"


def systems() -> str:
    """A row a system."""
    rows = [
        (
            f"**{entry.name}**",
            _paper(entry),
            ", ".join(entry.tasks),
            entry.family,
            str(len(entry.variants) or 1),
            _span(entry),
        )
        for entry in registry.entries("model").values()
    ]
    return table(("System", "Paper", "Task", "Family", "Sizes", "Parameters"), rows)


def variants() -> str:
    """A row a variant of a model, under a heading a system; counted beside published from results/published.json."""
    counted, parts = _result("published")["models"], []
    for entry in registry.entries("model").values():
        rows = [
            (
                f"`{name}`",
                f"{_parameters(entry, name):,}",
                _published(entry.published.get(name, {})),
                _compared(counted.get(name, {})),
            )
            for name in entry.variants or (entry.name,)
        ]
        tasks = ", ".join(entry.tasks)
        about = f"Task: {tasks}. Family: {entry.family}. Written from: {entry.provenance}."
        parts.append(
            f"### {entry.name}\n\n{_paper(entry)}.\n{about}\n\n"
            + table(("Variant", "Parameters", "Published", "Counted here"), rows)
        )
    return "\n\n".join(parts)


def parts() -> str:
    """What else is registered: a row a kind."""
    kinds = [kind for kind in registry.ROOMS if kind != "model"]
    rows = [(kind, ", ".join(f"`{name}`" for name in registry.names(kind))) for kind in kinds]
    return table(("Kind", "Names"), [row for row in rows if row[1]])


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


def runtime() -> str:
    """The engine against others, from results/bench_runtime.json."""
    found = _result("bench_runtime")
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
    found = _result("comparison")
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
    lif, step = _result("bench_lif"), _result("bench_train_step")
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


def gpu() -> str:
    """Neurons on a GPU against SpikingJelly's kernels and a copy, from results/gpu_lif.json."""
    found = _result("gpu_lif")
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
        ("Test accuracy", numbers.percent(_result("cifar10_gpu")["test"]["accuracy"])),
        ("Epochs", str(epochs[-1]["epoch"])),
        ("Images a second in training, median epoch", f"{rates[len(rates) // 2]:,.0f}"),
    ]
    made = (
        "One run, seed 0, on the GPU of the table above. Made by `neuromix train --task image-classification --data "
        "CIFAR10 --model spiking_preact_resnet18 --set time_steps=4 --set train.workers=14 --batch-size 256 --epochs "
        "15 --json > results/cifar10_gpu.json`; the speed is from `metrics.jsonl` of the run."
    )
    return f"{table(('', '`spiking_preact_resnet18`, T = 4'), rows)}\n\n{made}"


def energy() -> str:
    """The energy models of the library: a row a table."""
    rows = [
        (
            f"`{name}`",
            model.process,
            ", ".join(f"`{operation}` {price:g}" for operation, price in model.picojoules.items()),
            model.notes,
            model.source,
        )
        for name, model in energy_models().items()
    ]
    return table(("Name", "Process", "pJ", "", "Source"), rows)


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


def _machine(about: Mapping[str, Any]) -> str:
    return f"{about['processor']}, PyTorch {about['torch']}"


def _result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


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


_DEMO: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "Accuracy on 500 test images": lambda twin: numbers.percent(twin["accuracy"]),
    "Parameters": lambda twin: f"{twin['parameters']:,}",
    "Dense multiply-adds an image": lambda twin: numbers.count(twin["macs_dense"]),
    "Neurons that fire in a time step": lambda twin: numbers.percent(twin["firing_rate"]),
    "Energy an image, counted exactly": lambda twin: numbers.energy(twin["energy"]["45nm"]),
    "The same, convolutions fused": lambda twin: numbers.energy(twin["fused"]["energy"]["45nm"]),
    "Energy an image, by the papers' rule": lambda twin: numbers.energy(twin["paper"]["energy"]["45nm"]),
}


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; columns of figures are set to the right."""
    right = [
        all(re.fullmatch(r"[\d,.]+( \S+)?|–", row[column]) for row in rows) for column in range(len(head))
    ]
    rule = ["---:" if figures else "---" for figures in right]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _paper(entry: Entry) -> str:
    paper = entry.paper
    if paper is None:
        return "–"
    title = f"[{paper.title}]({paper.url})" if paper.url else paper.title
    return f"{title} ({', '.join(filter(None, (paper.venue, str(paper.year))))})"


def _parameters(entry: Entry, name: str) -> int:
    _, config = registry.find("model", name)
    with torch.device("meta"):  # shapes alone: no memory is taken
        return int(entry.build(config).num_parameters())


def _span(entry: Entry) -> str:
    # A contract test holds models to their published counts; building every one of them takes long.
    sizes = sorted(
        entry.published.get(name, {}).get("parameters") or _parameters(entry, name)
        for name in entry.variants or (entry.name,)
    )
    low, high = (_short(number) for number in (sizes[0], sizes[-1]))
    return low if low == high else f"{low} to {high}"


def _short(number: int) -> str:
    return f"{number / 1e6:.3g} M"


def _published(figures: Mapping[str, Any]) -> str:
    shown = [
        PUBLISHED.get(key, key + " {}").format(figures[key]) for key in figures if key not in _ABOUT_COUNTING
    ]
    return "; ".join(shown) or "–"


def _compared(figures: Mapping[str, Any]) -> str:
    """What is counted here of the figures that a paper prints, and how far off that is."""
    names = {"parameters_m": "parameters", "parameters": "parameters", "gmacs": "G multiply-adds"}
    shown = {}
    for key, name in names.items():
        if key in figures and name not in shown:
            one = figures[key]
            value = f"{one['counted'] / 1e6:.4g} M" if key == "parameters" else f"{one['counted']:.4g}"
            unit = " M" if key == "parameters_m" else ""
            off = "equal" if one["difference"] == 0 else f"{100 * one['difference']:+.1f} %"
            shown[name] = f"{value}{unit} {name} ({off})"
    return "; ".join(shown.values()) or "–"


TABLES: Mapping[str, Callable[[], str]] = {
    "systems": systems,
    "variants": variants,
    "parts": parts,
    "demo": demo,
    "runtime": runtime,
    "comparison": comparison,
    "training": training,
    "gpu": gpu,
    "gpu-training": gpu_training,
    "energy": energy,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""
    return fill(markdown)


def main() -> int:
    """Brings the README up to date, or says that it is not."""
    page = ROOT / "README.md"
    text = page.read_text(encoding="utf-8")
    fresh = fill(text)
    if "--check" in sys.argv:
        if text != fresh:
            print("README.md is out of date; run: python docs/generate.py", file=sys.stderr)
        return int(text != fresh)
    page.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
