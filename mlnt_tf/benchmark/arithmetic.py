"""Convolutions and matrix products of a traced function: their number of operations and time."""

import collections
import dataclasses
import math
import statistics
import time

import tensorflow as tf

from mlnt_tf.training.keras_internals import called_graph

COUNTED_OPS = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter", "DepthwiseConv2dNative",
               "DepthwiseConv2dNativeBackpropInput", "DepthwiseConv2dNativeBackpropFilter",
               "MatMul", "BatchMatMulV2")
LOOPS = ("While", "StatelessWhile")
BRANCHES = ("If", "StatelessIf")
ATTRIBUTES = ("strides", "padding", "dilations", "transpose_a", "transpose_b", "adj_x", "adj_y")


@dataclasses.dataclass(frozen=True)
class Product:
    """One convolution or matrix product, with everything that is needed to run it alone.

    Attributes:
      kind: str, the type of the operation.
      input_shapes: tuple of shapes. An operand that is itself a shape has None.
      sizes: tuple, the value of that operand.
      output_shape: tuple.
      dtype: str, that of the output.
      attributes: tuple of (name, value).
    """

    kind: str
    input_shapes: tuple
    sizes: tuple
    output_shape: tuple
    dtype: str
    attributes: tuple

    @property
    def flops(self):
        """Floating-point operations: two per multiplication and addition, padding included."""
        if "MatMul" in self.kind:
            attributes = dict(self.attributes)
            is_transposed = attributes.get("transpose_a") or attributes.get("adj_x")
            inner = self.input_shapes[0][-2 if is_transposed else -1]
            return 2 * math.prod(self.output_shape) * inner
        # A filter is [height, width, in, out]. The last two dimensions of a depthwise filter are
        # the input channels and the number of outputs per channel.
        filter_shape, output_shape = self._filter_and_output()
        taps = filter_shape[0] * filter_shape[1]
        if "Depthwise" not in self.kind:
            taps *= filter_shape[2]
        return 2 * math.prod(output_shape) * taps

    def _filter_and_output(self):
        """The shapes of the filter and of the output of the forward convolution."""
        if self.kind.endswith("BackpropInput"):
            return self.input_shapes[1], self.input_shapes[2]
        if self.kind.endswith("BackpropFilter"):
            return self.output_shape, self.input_shapes[2]
        return self.input_shapes[1], self.output_shape


def products(concrete):
    """Counts the products that one call of a concrete function computes.

    A loop counts once per iteration. Of a condition, the more expensive branch counts.

    Args:
      concrete: `tf.types.experimental.ConcreteFunction`.

    Returns:
      collections.Counter of `Product`.
    """
    return _products_of_graph(concrete.graph)


def _products_of_graph(graph):
    counts = collections.Counter()
    for op in graph.get_operations():
        if op.type in COUNTED_OPS:
            counts[_product(op)] += 1
            continue
        called = {name: called_graph(graph, op.get_attr(name).name)
                  for name in _function_attributes(op)}
        if op.type in LOOPS:
            iterations = int(tf.get_static_value(op.inputs[1]))  # maximum_iterations
            for product, count in _products_of_graph(called["body"]).items():
                counts[product] += iterations * count
        elif op.type in BRANCHES:
            counts += max(map(_products_of_graph, called.values()), key=flops)
        else:
            for inner in called.values():
                counts += _products_of_graph(inner)
    return counts


def _function_attributes(op):
    """The names of an operation's attributes that hold a function."""
    return [attribute.name for attribute in op.op_def.attr if attribute.type == "func"]


def _product(op):
    """The `Product` of an operation."""
    input_shapes = [tuple(tensor.shape) for tensor in op.inputs]
    output_shape = tuple(op.outputs[0].shape)
    sizes = ()
    for index, tensor in enumerate(op.inputs):
        if tensor.dtype == tf.int32:  # The shape of the output: input_sizes or filter_sizes.
            input_shapes[index] = None
            sizes = output_shape
    attributes = tuple((name, _hashable(op.get_attr(name)))
                       for name in ATTRIBUTES if name in op.node_def.attr)
    return Product(op.type, tuple(input_shapes), sizes, output_shape, op.outputs[0].dtype.name,
                   attributes)


def _hashable(value):
    """Converts an attribute's value: a list to a tuple, bytes to str."""
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, bytes):
        return value.decode()
    return value


def flops(counts):
    """Returns the floating-point operations of a Counter of `Product`."""
    return sum(count * product.flops for product, count in counts.items())


def seconds_alone(counts, *, repeats=5):
    """Returns the summed time of the counted convolutions and matrix products, each timed alone.

    Args:
      counts: Counter of `Product`.
      repeats: int, the number of timings per product, after a warm-up. The median counts.
    """
    return sum(count * _seconds(product, repeats) for product, count in counts.items())


def _seconds(product, repeats):
    """The median time of one product in s."""
    # Several small products run in one call, so that the overhead of a call does not count.
    calls = max(1, min(16, int(2e9 / product.flops)))
    operands = [[tf.cast(tf.random.normal(shape), product.dtype)
                 for shape in product.input_shapes if shape is not None] for _ in range(calls)]

    @tf.function
    def run():
        previous = []
        corners = []
        for tensors in operands:
            with tf.control_dependencies(previous):  # One after another.
                previous = [_call(product, tensors)]
            corners.append(tf.reshape(previous[0], [-1])[0])
        return tf.add_n(corners)  # TensorFlow would prune products whose result is not used.

    run()
    seconds = []
    for _ in range(repeats):
        start_time = time.perf_counter()
        run()
        seconds.append((time.perf_counter() - start_time) / calls)
    return statistics.median(seconds)


def _call(product, tensors):
    """Runs a product on the tensors of its operands, without that of a shape operand."""
    attributes = {name: list(value) if isinstance(value, tuple) else value
                  for name, value in product.attributes}
    function = getattr(tf.raw_ops, product.kind)
    remaining = iter(tensors)
    operands = [tf.constant(product.sizes) if shape is None else next(remaining)
                for shape in product.input_shapes]
    return function(**dict(zip(_operand_names(product.kind), operands)), **attributes)


def _operand_names(kind):
    """The names of an operation's operands in `tf.raw_ops`."""
    if kind == "MatMul":
        return "a", "b"
    if kind == "BatchMatMulV2":
        return "x", "y"
    if kind.endswith("BackpropInput"):
        return "input_sizes", "filter", "out_backprop"
    if kind.endswith("BackpropFilter"):
        return "input", "filter_sizes", "out_backprop"
    return "input", "filter"
