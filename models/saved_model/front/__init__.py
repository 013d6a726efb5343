"""The decode front: what turns encoded pictures into a model's input, and puts it before a signature that takes tensors."""
