"""Where tensors come from: from weights alone, by linear steps from a product, or from a neuron.

Three things that values cannot tell. A weight matrix may happen to hold zeros and ones, and is no spike train for
it; a sum of products that no neuron has read yet may happen to be small integers; and what a neuron sends may be
spikes of another height than one, which the next weights take in. All are followed through the ops by the memory that
tensors share, so that views need no care.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from neuromix.measure.operands import Values
from neuromix.measure.products import Product
from neuromix.ops.constants import constants

# Steps that a chain of linear layers may contain: they fold into the layer before or after.
_LINEAR_STEPS = """
    add add_ sub sub_ rsub mul mul_ div div_ neg neg_ clone contiguous _to_copy copy copy_ _unsafe_view
    constant_pad_nd reflection_pad2d replication_pad2d cat index index_put index_put_ index_select slice_scatter
    select_scatter pixel_shuffle where flip roll native_batch_norm _native_batch_norm_legit_no_training
    _batch_norm_no_update cudnn_batch_norm miopen_batch_norm transpose_ t_ squeeze_ unsqueeze_ swapaxes_ swapdims_
    as_strided_ unsafe_split unsafe_split_with_sizes unsafe_chunk
"""
_LINEAR = frozenset(_LINEAR_STEPS.split())
# Steps that leave spikes of one height what they are: they move them, choose among them, or add them up.
_SPIKE_STEPS = """
    add add_ clone contiguous _to_copy copy copy_ _unsafe_view constant_pad_nd cat index index_select flip roll im2col
    max_pool2d_with_indices transpose_ t_ squeeze_ unsqueeze_ unsafe_split unsafe_split_with_sizes unsafe_chunk
"""
_KEEPS_HEIGHT = frozenset(_SPIKE_STEPS.split())
# Memory whose contents no op declares: something outside the dispatcher may write them.
_UNWRITTEN = frozenset(("empty", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"))


class Lineage:
    """The origin of every tensor of a run, by its storage.

    Args:
        model: its parameters and buffers are the weights, and so are the constants that ops keep; whatever is
            computed from weights alone is one too.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = {_key(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._learnt = set(self._weights)  # those that are no constants
        self._chains: dict[StorageWeakRef | int, Values | None] = {}
        self._unwritten: set[StorageWeakRef | int] = set()
        self._heights: dict[StorageWeakRef | int, float] = {}
        self._in_heights: set[StorageWeakRef | int] = set()

    def is_weight(self, x: Tensor) -> bool:
        """Whether `x` is made of weights alone."""
        self._know_constants()
        return _key(x) in self._weights

    def of_weights_alone(self, products: Sequence[Product]) -> bool:
        """Whether these products see nothing but weights: they need be made once, for any number of samples.

        The same goes for constants alone; but a constant that meets weights, as the first state of a recurrent layer
        does, stands for a sample.
        """
        operands = [x for product in products for x in product.operands]
        learnt = {_key(x) in self._learnt for x in operands}
        return len(learnt) == 1 and all(self.is_weight(x) for x in operands)

    def _know_constants(self) -> None:
        """An op may have made one since the run began."""
        self._weights |= {_key(tensor) for tensor in constants()}

    def is_sum(self, x: Tensor) -> bool:
        """Whether `x` is the outcome of a product, followed at most by linear steps."""
        return _key(x) in self._chains

    def chain_of(self, x: Tensor) -> Values | None:
        """The spikes that entered the chain of linear steps that ends in `x`.

        None where `x` ends no such chain, or real numbers entered it.
        """
        return self._chains.get(_key(x))

    def send(self, spikes: Tensor, height: float) -> None:
        """Notes what a neuron sends: zeros, and multiples of `height`, which is not 1."""
        self._heights[_key(spikes)] = height

    def in_heights(self, x: Tensor) -> Tensor:
        """`x` divided by the height of the spikes that it holds, where it holds some; else `x` itself."""
        height = self._heights.get(_key(x))
        if height is None or x.is_meta:
            return x
        multiples = (x / height).round()
        if not torch.allclose(multiples * height, x, rtol=4 * torch.finfo(x.dtype).eps, atol=0):
            return x  # something else was written into the memory
        self._in_heights.add(_key(multiples))
        if _key(x) in self._chains:
            self._chains[_key(multiples)] = self._chains[_key(x)]
        return multiples

    def is_in_heights(self, x: Tensor) -> bool:
        """Whether `in_heights` made it."""
        return _key(x) in self._in_heights

    def unwritten(self, read: Iterable[Tensor], written: Iterable[Tensor] = ()) -> list[Tensor]:
        """Those of the tensors that an op reads, and does not write, into whose memory no op has written yet."""
        outside = self._unwritten - {_key(x) for x in written}
        return [x for x in read if _key(x) in outside] if outside else []

    def write(self, tensors: Iterable[Tensor]) -> None:
        """Notes that the memory of tensors has been written to."""
        self._unwritten -= {_key(x) for x in tensors}

    def start_chain(self, outputs: list[Tensor], entered: Values | None) -> None:
        """Notes the outcome of a product: a sum that spikes (or None: real numbers) entered."""
        self.write(outputs)
        for output in outputs:
            self._weights.discard(_key(output))
            self._heights.pop(_key(output), None)
            self._chains[_key(output)] = entered

    def follow(self, op: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Notes what any other op makes of its inputs. Single numbers among them decide nothing."""
        if op.is_view:
            return
        if op._opname in (*_UNWRITTEN, "empty_like"):
            self._unwritten |= {_key(x) for x in outputs if x.numel() and not x.is_meta}
        else:
            self.write(outputs)
        self._know_constants()
        varying = {_key(x) for x in inputs} - self._weights
        sources = {_key(x) for x in inputs if x.dim() > 0} - self._weights
        of_weights = not sources and op._opname not in _UNWRITTEN
        learnt = of_weights and any(_key(x) in self._learnt for x in inputs)
        chained = len(sources) == 1 and op._opname in _LINEAR and sources <= self._chains.keys()
        entered = self._chains[next(iter(sources))] if chained else None
        heights = {self._heights.get(key) for key in sources} if op._opname in _KEEPS_HEIGHT else {None}
        height = next(iter(heights)) if len(heights) == 1 else None
        for output in outputs:
            key = _key(output)
            self._weights.discard(key)
            self._learnt.discard(key)
            self._chains.pop(key, None)
            self._heights.pop(key, None)
            if height is not None:
                self._heights[key] = height
            if of_weights and key not in varying:
                self._weights.add(key)
                if learnt:
                    self._learnt.add(key)
            if chained:
                self._chains[key] = entered


def _key(x: Tensor) -> StorageWeakRef | int:
    if x.layout is not torch.strided:  # without storage; its products are not counted anyway
        return id(x)
    return StorageWeakRef(x.untyped_storage())  # type: ignore[no-untyped-call]


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors in nested arguments or results."""
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, tuple | list):
        return []
    return [tensor for value in values for tensor in tensors_in(value)]
