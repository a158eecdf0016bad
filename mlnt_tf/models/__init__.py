"""Networks: architectures, layers, parts that share weights, and prediction."""
