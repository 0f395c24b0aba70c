"""Models in the formats of others: ONNX and NIR."""
