"""Trace: one forward run, watched op by op with the values of its operands.

Every op that reaches PyTorch's dispatcher is either a product (`products`), known to be free (`free`), made of
other ops (then those are seen), or ends up by name in `not_counted`. What a module computes outside the dispatcher
is not seen; in this library those are neurons, which cost no products.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from neuromix.measure.calls import ModuleCalls
from neuromix.measure.free import is_free
from neuromix.measure.lineage import Lineage, tensors_in
from neuromix.measure.operands import Values, values_of
from neuromix.measure.products import PRODUCTS, Product
from neuromix.measure.sites import Activation, Site


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What one run of `model` computes: sums, never the tensors. Made by `trace`.

    Attributes:
        sites: the products in order of their first run, by (path, number within a call, copies).
        neurons: (elements, non-zero elements) that each neuron sent, by path.
        not_counted: ops that may multiply and are not understood -> number of calls.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sites: dict[tuple[str, int, int], Site] = {}
        self.neurons: dict[str, tuple[int, int]] = {}
        self.not_counted: Counter[str] = Counter()
        self.calls = ModuleCalls(model, self._see_spikes)
        self._lineage = Lineage(model)
        self._watching = True

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not self._watching:
            return op(*args, **kwargs)
        build = PRODUCTS.get(op.overloadpacket)
        if build is not None:
            entered = [self._see_product(product) for product in build(*_positional(op, args, kwargs))]
            result = op(*args, **kwargs)
            self._lineage.start_chain(tensors_in(result), entered[0] if len(entered) == 1 else None)
            return result
        if not is_free(op):
            with self:
                result = op.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            self.not_counted[str(op.overloadpacket)] += 1
        result = op(*args, **kwargs)
        self._see_other(op, tensors_in((args, kwargs)), tensors_in(result))
        return result

    def _see_product(self, product: Product) -> Values | None:
        """Notes a product; returns the spikes that entered the chain which its outcome ends."""
        call = self.calls.current
        site = self.sites.setdefault((call.path, call.products, call.copies), Site(call.path, call.copies))
        call.products += 1
        varying = [i for i, x in enumerate(product.operands) if not self._lineage.is_weight(x)]
        activations = [self._look(product, i, pairs=len(varying) > 1) for i in varying]
        # What enters from outside, and what ends the chain that it is part of so far.
        entered, before = None, None
        if len(activations) == 1:
            before = self._lineage.chain_of(product.operands[varying[0]])
            entered = activations[0].values if activations[0].sends_spikes else before
        site.see(product.macs, _bits(product), activations, before)
        return entered

    def _look(self, product: Product, i: int, pairs: bool) -> Activation:
        x = product.operands[i]
        values, is_sum = values_of(x), self._lineage.is_sum(x)
        if values.level is None or is_sum:
            return Activation(values, is_sum)
        by_value = product.additions(i, by_value=True, pairs=pairs)
        additions = product.additions(i, by_value=False, pairs=pairs) if values.level > 1 else by_value
        return Activation(values, is_sum, additions, by_value)

    def _see_other(self, op: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self._lineage.follow(op, inputs, outputs)
        # An element-wise product is free, but one that spreads both its factors is a matrix product in disguise.
        factors = [x.numel() for x in inputs if x.dim() > 0]
        spreads = op._opname in ("mul", "mul_") and len(factors) == 2 and outputs[0].numel() > max(factors)
        if spreads and not self._lineage.is_weight(outputs[0]):
            self.not_counted[f"{op.overloadpacket} (outer product)"] += 1

    def _see_spikes(self, path: str, spikes: Tensor) -> None:
        self._watching = False
        elements, nonzero = self.neurons.get(path, (0, 0))
        self.neurons[path] = (elements + spikes.numel(), nonzero + int(spikes.count_nonzero()))
        self._watching = True


def trace(model: nn.Module, run: Callable[[], object]) -> Trace:
    """Watches `run()`, which runs `model`."""
    watch = Trace(model)
    with watch.calls, watch:
        run()
    return watch


def _positional(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """All arguments in the order of the op's schema, defaults included."""
    missing = op._schema.arguments[len(args) :]
    return [*args, *(kwargs.get(argument.name, argument.default_value) for argument in missing)]


def _bits(product: Product) -> int:
    return 8 * max(x.element_size() for x in product.operands)
