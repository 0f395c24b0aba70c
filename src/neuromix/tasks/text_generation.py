"""Text of a trained language model: a run opened with its tokeniser, prompts in, text out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from neuromix.core import registry
from neuromix.core.checkpoint import load_checkpoint
from neuromix.core.errors import ConfigError
from neuromix.core.model import Model
from neuromix.core.observe import draws
from neuromix.data.text.tokeniser import Tokeniser, open_tokeniser
from neuromix.sampling.autoregressive import generate
from neuromix.training.chance import generator
from neuromix.training.run_folder import RunFolder


class Continuation(NamedTuple):
    """What a model makes of a prompt.

    Attributes:
        prompt, text: the prompt, and what comes after it.
        tokens: ids of the new tokens.
        log_probabilities: natural logarithm of the probability that the model gave each of them.
    """

    prompt: str
    text: str
    tokens: list[int]
    log_probabilities: list[float]


class TextModel:
    """A language model and its tokeniser.

    Attributes:
        model: on the device where it is to run.
        tokeniser: of the text that it was trained on.
    """

    def __init__(self, model: Model, tokeniser: Tokeniser) -> None:
        if getattr(model.config, "vocab_size", tokeniser.vocab_size) != tokeniser.vocab_size:
            raise ConfigError(
                f"the model has a vocabulary of {model.config.vocab_size} tokens, the tokeniser one of "
                f"{tokeniser.vocab_size}"
            )
        self.model, self.tokeniser = model, tokeniser

    def generate(
        self,
        prompt: str,
        max_tokens: int = 256,
        *,
        seed: int = 0,
        on_text: Callable[[str], None] | None = None,
        **options: Any,
    ) -> Continuation:
        """Goes on from a prompt.

        Args:
            max_tokens: how many tokens are added.
            seed: of all chance; the same seed gives the same text.
            on_text: is given the text piece by piece, as soon as its characters are whole.
            options: temperature, top_k, top_p and stop of `sampling.generate`.

        Raises:
            DataError: the prompt is empty, or has something that the vocabulary lacks.
            ShapeError: it does not fit into the model.
        """
        device = next(self.model.parameters()).device
        ids = self.tokeniser.encode_prompt(prompt)
        push = self.tokeniser.decoder()
        for token in ids:  # what the first new token reads as may depend on the one before it
            push(token)
        pieces: list[str] = []

        def tell(piece: str) -> None:
            pieces.append(piece)
            if on_text is not None and piece:
                on_text(piece)

        with draws(self.model, generator(seed, device)):
            found = generate(
                self.model,
                torch.tensor([ids], device=device),
                max_tokens=max_tokens,
                generator=generator(seed),
                on_token=lambda ids_1: tell(push(int(ids_1))),
                **options,
            )
        tell(push(None))
        return Continuation(
            prompt, "".join(pieces), found.ids_BN[0].tolist(), found.log_probabilities_BN[0].tolist()
        )


def open_text_model(run: str | Path) -> TextModel:
    """The language model of a run, on the CPU. The text that it was trained on need not be there any more.

    Raises:
        RunError: there is no run, or it has no weights yet.
        ConfigError: it was trained on something else than text.
    """
    folder = RunFolder(run)
    spec = folder.recipe().task
    config = registry.find("task", spec.name)[1].replace(**spec.options)
    if not hasattr(config, "tokeniser"):
        raise ConfigError(
            f"{run} was trained on {spec.name}; only a model of text, --task language-modelling, writes some"
        )
    return TextModel(load_checkpoint(folder.weights), open_tokeniser(config.tokeniser))
