"""A model with an op of its own: refused by the op's name and the flag, served once the library is given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import tensorflow as tf

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

OP = """
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
REGISTER_OP("DarkroomTriple").Input("x: float").Output("y: float")
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape);
class Triple : public tensorflow::OpKernel {
 public:
  explicit Triple(tensorflow::OpKernelConstruction* context) : OpKernel(context) {}
  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& x = context->input(0);
    tensorflow::Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    for (int i = 0; i < x.NumElements(); ++i) y->flat<float>()(i) = 3 * x.flat<float>()(i);
  }
};
REGISTER_KERNEL_BUILDER(Name("DarkroomTriple").Device(tensorflow::DEVICE_CPU), Triple);
"""
SAVE = """
import sys
import tensorflow as tf
library = tf.load_op_library(sys.argv[1])
module = tf.Module()
module.serve = tf.function(lambda x: {"y": library.darkroom_triple(x=x)}, autograph=False)
spec = tf.TensorSpec([None, 2], tf.float32, name="x")
tf.saved_model.save(module, sys.argv[2], module.serve.get_concrete_function(spec))
"""


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "darkroom", "check", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.skipif(shutil.which("g++") is None, reason="an op is built with a C++ compiler, and there is none")
def test_a_missing_op_is_named_with_its_flag_and_served_once_its_library_is_given(tmp_path: Path) -> None:
    source, library = tmp_path / "triple.cc", tmp_path / "ops" / "triple.so"
    source.write_text(OP, encoding="utf-8")
    library.parent.mkdir()
    flags = [*tf.sysconfig.get_compile_flags(), *tf.sysconfig.get_link_flags()]
    subprocess.run(["g++", "-shared", "-fPIC", "-O0", "-w", "-o", library, source, *flags], check=True, timeout=300)
    model = tmp_path / "tripler" / "1"
    subprocess.run([sys.executable, "-c", SAVE, library, model], check=True, timeout=200)

    without = check(model)
    assert without.returncode == 1
    assert "no op DarkroomTriple: give its library with --custom_op_paths" in without.stderr
    with_it = check(model, f"--custom_op_paths={library.parent}")
    assert with_it.returncode == 0, with_it.stderr
    assert "pass    freeze: in force" in with_it.stdout
    assert "y: [" in with_it.stdout
