"""Trace: one forward run, watched op by op with the values of its operands.

Every op that reaches PyTorch's dispatcher is either a product (`products`), known to be free (`free`), made of
other ops (then those are seen), or ends up by name in `not_counted`. So does whatever leaves PyTorch: a tensor that
is handed to NumPy, memory that a kernel fills without the dispatcher's knowledge. Only spiking neurons may do that,
as they cost no products.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from neuromix.measure.activations import NeuronTypes, Sent, activations_of, first_output, height_of
from neuromix.measure.calls import Call, ModuleCalls
from neuromix.measure.free import is_free
from neuromix.measure.lineage import Lineage, tensors_in
from neuromix.measure.operands import Values, values_of
from neuromix.measure.products import PRODUCTS, Product, positional, products_of
from neuromix.measure.sites import Activation, Site, Work


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What one run of `model` computes: sums, never the tensors. Made by `trace`.

    Attributes:
        sites: the products in order of their first run, by (path, number within a call, copies).
        sent: what the activations sent, by path, in order of their first run.
        not_counted: ops that may multiply and are not understood -> number of calls.
    """

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module, neurons: NeuronTypes = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sites: dict[tuple[str, int, int], Site] = {}
        self.sent: dict[str, Sent] = {}
        self.not_counted: Counter[str] = Counter()
        self.calls = ModuleCalls(model, self._leave)
        self._activations = activations_of(model, neurons)
        self._lineage = Lineage(model)
        self._watching = True

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not self._watching:
            return op(*args, **kwargs)
        if isinstance(op, HigherOrderOperator):
            self.not_counted[f"higher_order.{op.__name__}"] += 1
            return op(*args, **kwargs)
        inputs, written = tensors_in((args, kwargs)), _written(op, args, kwargs)
        multiplies = op.overloadpacket in PRODUCTS and _are_dense(inputs)
        if not multiplies and not is_free(op):
            with self:
                result = op.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            self.not_counted[str(op.overloadpacket)] += 1
        if not op.is_view:
            self._look_for_kernels(self.calls.current, inputs, written)
        result = op(*args, **kwargs)
        self._lineage.write(written)
        given = pytree.tree_map_only(Tensor, self._lineage.in_heights, (args, kwargs)) if multiplies else None
        products = [] if given is None else products_of(op, *given) or []
        if multiplies and self._lineage.of_weights_alone(products):
            self._lineage.follow(op, inputs, tensors_in(result))
        elif multiplies:
            entered = [self._see_product(product) for product in products]
            self._lineage.start_chain(tensors_in(result), entered[0] if len(entered) == 1 else None)
        else:
            self._see_other(op, inputs, tensors_in(result))
        return result

    def leave_pytorch(self, where: str) -> None:
        """Notes that a tensor is handed to another library."""
        self._note_outside(self.calls.current, where)

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
        site.see(_work(product, varying), activations, before)
        return entered

    def _look(self, product: Product, i: int, pairs: bool) -> Activation:
        x = product.operands[i]
        values, is_sum = values_of(x), self._lineage.is_sum(x)
        if self._lineage.is_in_heights(x):
            values = values._replace(ternary=values.nonzero == 0)  # as it was, it held other numbers than 1
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

    def _leave(self, call: Call, module: nn.Module, output: Any) -> None:
        self._watching = False
        spiking = self._activations.get(call.path)
        if spiking is not None:
            self.sent.setdefault(call.path, Sent(spiking)).see(module, output)
        if spiking:
            self._lineage.write(tensors_in(output))
            height, spikes = height_of(module), first_output(output)
            if height != 1.0 and spikes is not None:
                self._lineage.send(spikes, height)
        self._look_for_kernels(call, tensors_in(output))
        self._watching = True

    def _look_for_kernels(self, call: Call, read: list[Tensor], written: Sequence[Tensor] = ()) -> None:
        """Notes where memory is used that something outside of the dispatcher must have filled."""
        outside = self._lineage.unwritten(read, written)
        if outside:
            self._lineage.write(outside)
            self._note_outside(call, "a kernel")

    def _note_outside(self, call: Call, what: str) -> None:
        caller: Call | None = call
        while caller is not None:
            if self._activations.get(caller.path):  # a neuron costs no products
                return
            caller = caller.parent
        self.not_counted[f"{what} outside PyTorch, in {call.path or 'the model itself'}"] += 1


def trace(model: nn.Module, run: Callable[[], object], neurons: NeuronTypes = ()) -> Trace:
    """Watches `run()`, which runs `model`."""
    watch = Trace(model, neurons)
    # What torch.compile made runs op by op; as it is, no op of it would be seen.
    with torch.compiler.set_stance("force_eager"), watch.calls, watch, _Exits(watch):
        run()
    return watch


class _Exits(TorchFunctionMode):
    """Watches the ways by which tensors are handed to NumPy and other libraries."""

    WAYS: ClassVar[Mapping[Any, str]] = {
        torch.Tensor.numpy: "NumPy",
        torch.Tensor.__array__: "NumPy",
        torch.Tensor.__dlpack__: "DLPack",
    }

    def __init__(self, watch: Trace) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function in self.WAYS:
            self._watch.leave_pytorch(self.WAYS[function])
        return function(*args, **(kwargs or {}))


def _work(product: Product, varying: list[int]) -> Work:
    weights = [x for i, x in enumerate(product.factors) if i not in varying]
    return Work(
        macs=product.macs,
        dense=product.dense,
        effective=product.effective(),
        outputs=product.outputs,
        weights=sum(_stored(x) for x in weights),
        bits=8 * max(x.element_size() for x in product.operands),
    )


def _are_dense(tensors: list[Tensor]) -> bool:
    """Whether none of them is sparse or nested: products of such are not counted."""
    return all(x.layout is torch.strided for x in tensors)


def _stored(x: Tensor) -> int:
    """Numbers of a tensor that is expanded along some axes, each once."""
    return math.prod(side for side, stride in zip(x.shape, x.stride(), strict=True) if stride)


def _written(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The arguments that an op writes to."""
    values = zip(op._schema.arguments, positional(op, args, kwargs), strict=False)
    return tensors_in([value for a, value in values if a.alias_info is not None and a.alias_info.is_write])
