"""`neuromix bench runtime`: one image through a spiking model, in the event-driven engine and elsewhere.

The model has random weights; the thresholds are set so that every neuron layer fires at `rate` (see `rates`). All
contestants run this same network: PyTorch eager, torch.compile and ONNX Runtime multiply all zeros, the engine adds
weights up where there are spikes. Analog twins of about the same size run in ONNX Runtime: what a user would deploy
who wants no spikes. Then the layers of the engine, one by one, against their floor.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from neuromix.bench.contest import Contestant, OnTurn, contest, silent
from neuromix.bench.layers import layer_times
from neuromix.bench.rates import firing_model, thresholds, with_thresholds
from neuromix.bench.result import BenchResult, ratios
from neuromix.core.checkpoint import create_model
from neuromix.core.errors import NeuromixError
from neuromix.core.model import Model

MODEL, SIDE = "meta_spikeformer_15m", 224
TWINS = ("poolformer_s24", "caformer_s18")


def run(*, rounds: int = 7, threads: int = 2, rate: float = 0.15, on_turn: OnTurn = silent) -> BenchResult:
    """Measures the engine with float32 and int8 weights against the others, batch 1, T = 4.

    All files are written beforehand, so that the memory of a contestant is that of loading and running.
    """
    result = BenchResult.begin("runtime", threads=threads, rounds=rounds)
    result.environment |= {"model": MODEL, "side": SIDE, "firing_rate": rate, "weights": "random"}
    with tempfile.TemporaryDirectory() as folder:
        on_turn("writing the files")
        contestants = _contestants(Path(folder), rate)
        outcome = contest(contestants, rounds=rounds, threads=threads, on_turn=on_turn)
        for name in ("float32", "int8"):
            on_turn(f"layers of {name}")
            path, image_CHW = Path(folder) / f"{name}.nmx", _image()[0].numpy()
            result.layers[name] = layer_times(path, image_CHW, rounds=2 * rounds)
    result.measurements[f"{MODEL}_{SIDE}"] = {name: m.to_dict() for name, m in outcome.measurements.items()}
    result.ratios = ratios(outcome, "float32") | ratios(outcome, "int8")
    result.missing = dict(outcome.missing)
    return result


def _contestants(folder: Path, rate: float) -> list[Contestant]:
    model = firing_model(MODEL, rate=rate, side=SIDE)
    weights = folder / "weights.safetensors"
    save_file(model.state_dict(), weights)
    torch_options = {"model": MODEL, "weights": str(weights), "thresholds": thresholds(model)}
    files = _write_programs(model, folder)
    onnx = {"onnxruntime": model, **{f"onnxruntime_{twin}": _twin(twin) for twin in TWINS}}
    return [
        *(
            Contestant(name, f"{__name__}:prepare_engine", {"path": str(path)})
            for name, path in files.items()
        ),
        Contestant("eager", f"{__name__}:prepare_eager", torch_options),
        Contestant("compile", f"{__name__}:prepare_compiled", torch_options),
        *(
            Contestant(
                name, f"{__name__}:prepare_onnxruntime", {"path": str(_write_onnx(net, folder / name))}
            )
            for name, net in onnx.items()
        ),
    ]


def _twin(name: str) -> Model:
    torch.manual_seed(0)
    return create_model(name).eval()


def _write_programs(model: Model, folder: Path) -> dict[str, Path]:
    from neuromix.runtime import lower, quantize, write_program

    shape = (3, SIDE, SIDE)
    programs = {
        "float32": lower(model, input_shape=shape),
        "int8": quantize(lower(model, input_shape=shape, factored=False), _image()),
    }
    paths = {name: folder / f"{name}.nmx" for name in programs}
    for name, program in programs.items():
        write_program(program, paths[name])
    return paths


def _write_onnx(model: Model, path: Path) -> Path:
    """An ONNX file, or none where the packages are missing: the contestant will tell."""
    try:
        from neuromix.exchange.onnx import export_onnx

        export_onnx(model, path.with_suffix(".onnx"), input_shape=(3, SIDE, SIDE), check=False)
    except (ModuleNotFoundError, NeuromixError):
        pass
    return path.with_suffix(".onnx")


def _image() -> torch.Tensor:
    return torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def _load(model: str, weights: str, thresholds: list[float]) -> Model:
    net = create_model(model).eval()
    net.load_state_dict(load_file(weights))
    return with_thresholds(net, thresholds)


def _runs(net: Callable[[torch.Tensor], Any]) -> Callable[[], Any]:
    image_BCHW = _image()

    def once() -> Any:
        with torch.inference_mode():
            return net(image_BCHW)

    return once


def prepare_eager(**options: Any) -> Callable[[], Any]:
    """PyTorch as it is."""
    return _runs(_load(**options))


def prepare_compiled(**options: Any) -> Callable[[], Any]:
    """PyTorch under torch.compile."""
    return _runs(torch.compile(_load(**options)))


def prepare_onnxruntime(path: str) -> Callable[[], Any]:
    """ONNX Runtime's CPU provider."""
    import onnxruntime  # noqa: F401 (tells that it is missing)

    from neuromix.exchange.onnx import onnx_session

    session, image = onnx_session(path, torch.get_num_threads()), _image().numpy()
    return lambda: session(image)


def prepare_engine(path: str) -> Callable[[], Any]:
    """The event-driven engine."""
    from neuromix.runtime import load

    session, image_CHW = load(path).session(threads=torch.get_num_threads()), _image()[0].numpy()
    return lambda: session.run(image_CHW)
