"""profile: what one inference of a model costs - parameters, operations, traffic, rates, energy - by rules."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy

from neuromix.core.edits import apply_edit
from neuromix.core.errors import ConfigError, ShapeError
from neuromix.core.model import Model
from neuromix.measure.activations import NeuronTypes
from neuromix.measure.energy import Energies, energies_by_name
from neuromix.measure.figures import ActivationProfile, EnergyReport, LayerProfile, NeuronProfile, Profile
from neuromix.measure.inputs import Inputs, naming_failures, runner
from neuromix.measure.inputs import batch_size as samples_in
from neuromix.measure.parameters import count_parameters
from neuromix.measure.rules import CountingRule, counting_rule
from neuromix.measure.static import session_bytes
from neuromix.measure.tally import Tally
from neuromix.measure.trace import trace
from neuromix.measure.untouched import untouched

__all__ = ["profile", "Profile", "LayerProfile", "NeuronProfile", "ActivationProfile", "EnergyReport"]


def profile(
    model: nn.Module,
    inputs: Inputs,
    counting: str | CountingRule = "exact",
    *,
    batch_size: int | None = None,
    energies: Energies | None = None,
    neurons: NeuronTypes = (),
) -> Profile:
    """Runs a model once, in eval mode and without gradients, and counts what it computes.

    The model is left as it was: mode, gradients, buffers, states that its modules keep, and random numbers.

    Args:
        model: a registered model, or any module.
        inputs: a Batch (the fields that the model names), the tensor that it takes, or several of them.
        counting: "exact", "paper", or a CountingRule.
        batch_size: samples in `inputs`; by default the size of the Batch, or of the batch axis of the first tensor
            (its first axis; the second one where a spiking Model is given frames [T, B, ...]).
        energies: energy models by name, or a list of names and of TOML files; by default all that are known.
        neurons: classes of spiking neurons beside those of this library, SpikingJelly, snnTorch and Norse.

    Raises:
        ConfigError, UnknownNameError: no such rule or energy model; `structure="fused"` for a module that is not a
            Model.
        ShapeError: no sample, or a model whose tensors have no values (meta device, lazy parameters).
        ForwardError: the model failed; names the module.

    Example:
        >>> net = neuromix.create_model("meta_spikeformer_nano")
        >>> neuromix.profile(net, torch.rand(2, 1, 8, 8)).macs_dense
    """
    rule = counting_rule(counting, getattr(model, "name", ""))
    tables = energies_by_name(energies)
    size = samples_in(model, inputs) if batch_size is None else batch_size
    if size < 1:
        raise ShapeError("a profile needs at least one sample, got an empty batch")
    tensors = (*model.parameters(), *model.buffers())
    if any(is_lazy(tensor) for tensor in tensors):
        raise ShapeError("a profile reads values; this model has lazy parameters: run it once before")
    if any(tensor.is_meta for tensor in tensors):
        raise ShapeError("a profile reads values; this model is on the meta device and has none")
    net = _in_structure(model, rule)
    with untouched(net):
        seen = trace(net, runner(net, inputs), neurons)
        with naming_failures(net):
            state = session_bytes(net, inputs)
    return Tally(net, seen, rule, size, tables).profile(count_parameters(model), state)


def _in_structure(model: nn.Module, rule: CountingRule) -> nn.Module:
    if rule.structure == "as_built":
        return model
    if not isinstance(model, Model):
        raise ConfigError(f'structure "fused" needs a registered model, got {type(model).__name__}')
    fused = apply_edit(model, "fuse")
    fused.name = model.name
    return fused
