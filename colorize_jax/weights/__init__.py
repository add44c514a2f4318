"""Reads, writes and inspects weights of other programs: Caffe, PyTorch and ONNX."""
