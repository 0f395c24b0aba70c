"""neuromix generate: text from a trained language model."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from neuromix.cli.console import print_json, progress
from neuromix.core.errors import ConfigError


def command(
    run: Annotated[Path, typer.Argument(help="Folder of a run of language-modelling.")],
    prompt: Annotated[str, typer.Option(help="The text to go on from.")],
    max_tokens: Annotated[int, typer.Option(help="Tokens that are added.")] = 256,
    temperature: Annotated[
        float, typer.Option(help="0: always the likeliest token; higher: more varied.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Choose among so many of the likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among the fewest tokens of so much probability together.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all chance; the same seed gives the same text.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps. [default: as in training]")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text as it comes.")] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object: prompt, text, tokens, log_probabilities, tokens_per_second, seed, run.",
        ),
    ] = False,
) -> None:
    """Go on from a prompt with a language model that was trained on text.

    The prompt is read once; each token after it is one step from the state that the model keeps.

    \b
    Example:
      neuromix train --task language-modelling --data notes.txt --model transformer_nano --out runs/notes
      neuromix generate runs/notes --prompt "It was" --max-tokens 200 --temperature 0.8 --stream
    """
    from neuromix.tasks.text_generation import open_text_model
    from neuromix.training.devices import make_fabric
    from neuromix.training.run_folder import RunFolder

    if stream and as_json:
        raise ConfigError("--stream and --json do not go together; give one")
    text_model = open_text_model(run)
    config = RunFolder(run).recipe().train
    text_model.model.to(make_fabric(config.replace(device=device) if device else config).device)
    with suppress(AttributeError):  # what a terminal cannot show is no reason to stop
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    if stream:
        started = False

        def tell(piece: str) -> None:
            nonlocal started
            print(piece if started else prompt + piece, end="", flush=True)
            started = True

        text_model.generate(prompt, max_tokens, on_text=tell, **options)
        print()
        return
    begin = time.perf_counter()
    with progress() as display:
        bar = display.add_task("generating", total=None)
        found = text_model.generate(prompt, max_tokens, on_text=lambda _: display.advance(bar), **options)
    seconds = time.perf_counter() - begin
    if as_json:
        speed = len(found.tokens) / seconds
        print_json({**found._asdict(), "tokens_per_second": speed, "seed": seed, "run": str(run)})
        return
    print(found.prompt + found.text)
