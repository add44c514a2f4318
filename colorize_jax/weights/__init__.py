"""Files of other programs' networks: Caffe, PyTorch and ONNX, read, written and looked into."""
