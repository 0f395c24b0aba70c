"""Simplifications of a program that leave its values as they are, but for rounding.

Shapes: O output channels of a convolution.
"""

from __future__ import annotations

import dataclasses

from neuromix.runtime.node import Node
from neuromix.runtime.program import Program


def simplified(program: Program) -> Program:
    """Scales and shifts behind a convolution become part of it; nodes that nobody reads are left out."""
    return without_unread(folded(program))


def folded(program: Program) -> Program:
    """Each `affine` that is the only reader of a convolution is folded into its weights."""
    nodes = list(program.nodes)
    instead: dict[int, int] = {}  # the affine -> the convolution that does its work
    for index, node in enumerate(nodes):
        node = dataclasses.replace(node, inputs=tuple(instead.get(i, i) for i in node.inputs))
        nodes[index] = node
        if node.op != "affine":
            continue
        source = node.inputs[0]
        if nodes[source].op == "conv" and program.readers(source) == [index] and source != program.output:
            nodes[source] = _scaled(nodes[source], node)
            instead[index] = source
    return program.replace(nodes=tuple(nodes), output=instead.get(program.output, program.output))


def _scaled(conv: Node, affine: Node) -> Node:
    scale, shift = affine["scale"].double(), affine["shift"].double()
    bias = shift if conv["bias"] is None else conv["bias"].double() * scale + shift
    if "scale" in conv.keys:  # integer weights stay what they are
        return conv.replace(scale=(conv["scale"].double() * scale).float(), bias=bias.float())
    weight = conv["weight"].double() * scale[:, None, None, None]
    return conv.replace(weight=weight.float(), bias=bias.float())


def without_unread(program: Program) -> Program:
    """Only the input and what the output depends on."""
    needed = {0, program.output}
    for index in reversed(range(len(program.nodes))):
        if index in needed:
            needed.update(program.nodes[index].inputs)
    kept = sorted(needed)
    number = {old: new for new, old in enumerate(kept)}
    nodes = tuple(
        dataclasses.replace(program.nodes[old], inputs=tuple(number[i] for i in program.nodes[old].inputs))
        for old in kept
    )
    return program.replace(nodes=nodes, output=number[program.output])
