"""dense_macs: multiply-adds by the shapes alone, so also of a model on the meta device, which has no values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from neuromix.core.errors import UnsupportedError
from neuromix.measure.free import is_free
from neuromix.measure.inputs import Inputs, runner
from neuromix.measure.lineage import Lineage, tensors_in
from neuromix.measure.products import products_of


def dense_macs(model: nn.Module, inputs: Inputs) -> int:
    """Multiply-adds of one forward pass of a model as it stands, of all samples together.

    The same number as `macs_dense` of `profile` times the samples, without reading a value: a net of any size on
    the meta device takes about a second, and its weights take no memory.

    Args:
        inputs: a Batch (the fields that the model names), the tensor that it takes, or several of them; on the
            device of the model.

    Raises:
        UnsupportedError: an op that may multiply and is not understood, by name.
        ForwardError: the model failed; on the meta device also because its shapes depend on values.

    Example:
        >>> with torch.device("meta"):
        ...     net, image_BCHW = create_model("poolformer_s12").eval(), torch.empty(1, 3, 224, 224)
        >>> dense_macs(net, image_BCHW)
        1812267008
    """
    count = _Count(model)
    with torch.no_grad(), count:
        runner(model, inputs)()
    return count.macs


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self._lineage = Lineage(model)

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        products = products_of(op, args, kwargs)
        if products is None and not is_free(op):
            with self:
                result = op.decompose(*args, **kwargs)
            if result is NotImplemented:
                raise UnsupportedError(f"the multiply-adds of {op.overloadpacket} are not known")
            return result
        result = op(*args, **kwargs)
        if products is None or self._lineage.of_weights_alone(products):
            self._lineage.follow(op, tensors_in((args, kwargs)), tensors_in(result))
        else:
            self.macs += sum(product.macs for product in products)
            self._lineage.start_chain(tensors_in(result), None)
        return result
