"""Convolutions and matrix products of a traced function: how much arithmetic, and how long it takes alone."""

import collections
import dataclasses
import statistics
import time

import tensorflow as tf

COUNTED = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "DepthwiseConv2dNative",
           "DepthwiseConv2dNativeBackpropInput", "DepthwiseConv2dNativeBackpropFilter", "MatMul", "BatchMatMulV2")
LOOPS = ("While", "StatelessWhile")
BRANCHES = ("If", "StatelessIf")


@dataclasses.dataclass(frozen=True)
class Product:
    """One convolution or matrix product: what it takes to run it again. `attributes` are (name, value) pairs."""

    kind: str
    input_shapes: tuple  # None for the shape operand, which `sizes` holds
    sizes: tuple
    output_shape: tuple
    dtype: str
    attributes: tuple

    @property
    def flops(self):
        """Two for each multiplication and addition that the shapes call for, padding not left out."""
        if "MatMul" in self.kind:
            *outer, rows, columns = self.output_shape
            first = self.input_shapes[0]
            transposed = dict(self.attributes).get("transpose_a") or dict(self.attributes).get("adj_x")
            return 2 * _count(self.output_shape) * (first[-2] if transposed else first[-1])
        # Of the three tensors of a convolution the filter is [height, width, in, out], the output has `out` channels;
        # a depthwise filter's last two are the channels of each input and its multiples.
        filters, outputs = self._filter_and_output()
        taps = filters[0] * filters[1] * (1 if "Depthwise" in self.kind else filters[2])
        return 2 * _count(outputs) * taps

    def _filter_and_output(self):
        if self.kind.endswith("BackpropInput"):
            return self.input_shapes[1], self.input_shapes[2]
        if self.kind.endswith("BackpropFilter"):
            return self.output_shape, self.input_shapes[2]
        return self.input_shapes[1], self.output_shape


def _count(shape):
    count = 1
    for side in shape:
        count *= side
    return count


def products(concrete):
    """Counter of the `Product`s that one call of a concrete function computes; a loop's count as often as it turns.

    Of a condition the dearer branch counts.
    """
    return _of_graph(concrete.graph)


def _of_graph(graph):
    found = collections.Counter()
    for op in graph.get_operations():
        if op.type in COUNTED:
            found[_product(op)] += 1
            continue
        called = {name: _graph_of(graph, op.get_attr(name).name) for name in _function_attributes(op)}
        if op.type in LOOPS:
            turns = int(tf.get_static_value(op.inputs[1]))  # maximum_iterations
            for product, count in _of_graph(called["body"]).items():
                found[product] += turns * count
        elif op.type in BRANCHES:
            found += max(map(_of_graph, called.values()), key=flops)
        else:
            for inner in called.values():
                found += _of_graph(inner)
    return found


def _function_attributes(op):
    return [attribute.name for attribute in op.op_def.attr if attribute.type == "func"]


def _graph_of(graph, name):
    while name not in graph._functions:
        graph = graph.outer_graph
    return graph._functions[name].graph


def _product(op):
    shapes = [tuple(tensor.shape) for tensor in op.inputs]
    sizes = ()
    for place, tensor in enumerate(op.inputs):
        if tensor.dtype == tf.int32:  # input_sizes or filter_sizes; what comes out has that shape
            shapes[place], sizes = None, tuple(op.outputs[0].shape)
    names = ("strides", "padding", "dilations", "transpose_a", "transpose_b", "adj_x", "adj_y")
    attributes = tuple((name, _plain(op.get_attr(name))) for name in names if name in op.node_def.attr)
    return Product(op.type, tuple(shapes), sizes, tuple(op.outputs[0].shape), op.outputs[0].dtype.name, attributes)


def _plain(value):
    return tuple(value) if isinstance(value, list) else value.decode() if isinstance(value, bytes) else value


def flops(counts):
    """Floating-point operations of a Counter of products."""
    return sum(count * product.flops for product, count in counts.items())


def seconds_alone(counts, *, repeats=5):
    """What the products take with nothing between them: the sum over the counts, each product timed by itself.

    Args:
      counts: Counter of `Product`s.
      repeats: timings of each, of which the median is taken, after one that is not.
    """
    return sum(count * _seconds(product, repeats) for product, count in counts.items())


def _seconds(product, repeats):
    side_by_side = max(1, min(16, int(2e9 / product.flops)))  # calls in one graph, to drown what a call costs
    tensors = [[tf.cast(tf.random.normal(shape), product.dtype) for shape in product.input_shapes if shape is not None]
               for _ in range(side_by_side)]

    @tf.function
    def run():
        done, corners = [], []
        for operands in tensors:
            with tf.control_dependencies(done):  # one after another
                done = [_call(product, list(operands))]
            corners.append(tf.reshape(done[0], [-1])[0])  # what nobody uses would be left out
        return tf.add_n(corners)

    run()
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        took.append((time.perf_counter() - began) / side_by_side)
    return statistics.median(took)


def _call(product, tensors):
    attributes = {name: list(value) if isinstance(value, tuple) else value for name, value in product.attributes}
    if "MatMul" in product.kind:
        first, second = tensors
        return getattr(tf.raw_ops, product.kind)(
            **dict(zip(("a", "b") if product.kind == "MatMul" else ("x", "y"), (first, second))), **attributes)
    operands = [tf.constant(product.sizes) if shape is None else tensors.pop(0) for shape in product.input_shapes]
    names = {"Input": ("input_sizes", "filter", "out_backprop"), "Filter": ("input", "filter_sizes", "out_backprop")}
    names = next((found for end, found in names.items() if product.kind.endswith("Backprop" + end)), ("input", "filter"))
    return getattr(tf.raw_ops, product.kind)(**dict(zip(names, operands)), **attributes)
