"""Files in eight bits: how they are told, and how far two computations of one may lie apart.

In such a file a pair of QuantizeLinear and DequantizeLinear (QDQ) stands around every operator and rounds each value to a
multiple of a step, `scale (round(x / scale) + zero_point)`. A runtime may compute the operator and the pairs around it at
once, in integers. Both ways give the same sums but for a last rounding; yet a sum in the middle between two steps falls to
one side here and to the other there, a whole step apart, and the layers behind it carry that on.

**The bound** is `2 + sqrt(n)` steps of the output behind n convolutions and products of matrices: each of them may be a step
off, independently, so the squares add up as they do for roundings in float. Measured on 16 to 32 images: LeNet-5 0 steps; with
untrained weights, which carry on the most, ResNet-20 and ResNet-50 2, MobileNetV2 4, U-Net 6 in one of 131,072 outputs.

Kernels that lose sums differ by more. Processors of x86 before VNNI add the products of unsigned and signed bytes in pairs of
16 bits and cut off what exceeds them: with weights of all eight bits a network of four layers was 25 steps off, MobileNetV2
19, U-Net 29.
"""

import math
from typing import Any

# What multiplies by weights, and so is worth eight bits.
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_STEPS_AND_BACK = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
_INTEGER = {"ConvInteger", "MatMulInteger"}


def has_integer_operators(proto: Any) -> bool:
    """Whether operators themselves compute in integers (QLinearConv, ConvInteger), rather than the runtime's fused ones."""
    return any(node.op_type in _INTEGER or node.op_type.startswith("QLinear") for node in proto.graph.node)


def is_quantized(proto: Any) -> bool:
    """Whether a file rounds values to steps, in the QDQ form or for operators of integers."""
    return has_integer_operators(proto) or any(node.op_type in _STEPS_AND_BACK for node in proto.graph.node)


def weighted_nodes(proto: Any) -> list[Any]:
    """The convolutions and products of matrices."""
    return [node for node in proto.graph.node if node.op_type in WEIGHTED]


def in_int8(proto: Any) -> int:
    """How many of them take both their operands from DequantizeLinear."""
    dequantized = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    return sum(dequantized.issuperset(node.input[:2]) for node in weighted_nodes(proto))


def output_steps(proto: Any) -> dict[str, float]:
    """For each output, the largest step of the values that it is computed from: 0 where none was rounded to steps."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}

    def step(name: str) -> float:
        largest, waiting, seen = 0.0, [name], set()
        while waiting:
            node = makers.get(name := waiting.pop())
            if node is None or name in seen:
                continue
            seen.add(name)
            if node.op_type != "DequantizeLinear":
                waiting.extend(node.input)
            elif node.input[0] not in constants and node.input[1] in constants:
                largest = max(largest, float(numpy_helper.to_array(constants[node.input[1]]).max(initial=0.0)))
        return largest

    return {output.name: step(output.name) for output in proto.graph.output}


def steps_apart(proto: Any) -> dict[str, float]:
    """For each output, how far two computations of it may lie apart because of steps; 0 in a float file."""
    allowed = 2 + math.sqrt(len(weighted_nodes(proto)))
    return {name: allowed * step for name, step in output_steps(proto).items()}
