"""A model with an op of its own: refused by the op's name and the flag, served once the library is given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import tensorflow as tf

from darkroom.service.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

# By TensorFlow's C interface: the headers of the other take ten seconds to compile.
OP = """
#include <tensorflow/c/kernels.h>
#include <tensorflow/c/ops.h>
#include <tensorflow/c/tf_tensor.h>

static void shape(TF_ShapeInferenceContext* context, TF_Status* status) {
    TF_ShapeHandle* handle = TF_NewShapeHandle();
    TF_ShapeInferenceContextGetInput(context, 0, handle, status);
    TF_ShapeInferenceContextSetOutput(context, 0, handle, status);
    TF_DeleteShapeHandle(handle);
}

static void triple(void* kernel, TF_OpKernelContext* context) {
    TF_Status* status = TF_NewStatus();
    TF_Tensor* x = 0;
    TF_GetInput(context, 0, &x, status);
    int64_t sizes[2] = {TF_Dim(x, 0), TF_Dim(x, 1)};
    TF_Tensor* y = TF_AllocateOutput(context, 0, TF_FLOAT, sizes, 2, TF_TensorByteSize(x), status);
    const float* from = static_cast<const float*>(TF_TensorData(x));
    float* to = static_cast<float*>(TF_TensorData(y));
    for (int64_t i = 0; i < TF_TensorElementCount(x); ++i) to[i] = 3 * from[i];
    TF_DeleteTensor(x);
    TF_DeleteTensor(y);
    TF_DeleteStatus(status);
}

__attribute__((constructor)) static void add() {
    TF_Status* status = TF_NewStatus();
    TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder("DarkroomTriple");
    TF_OpDefinitionBuilderAddInput(op, "x: float");
    TF_OpDefinitionBuilderAddOutput(op, "y: float");
    TF_OpDefinitionBuilderSetShapeInferenceFunction(op, shape);
    TF_RegisterOpDefinition(op, status);
    TF_RegisterKernelBuilder("DarkroomTriple", TF_NewKernelBuilder("DarkroomTriple", "CPU", 0, triple, 0), status);
    TF_DeleteStatus(status);
}
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
def test_a_missing_op_is_named_with_its_flag_and_served_once_its_library_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, library = tmp_path / "triple.cc", tmp_path / "ops" / "triple.so"
    source.write_text(OP, encoding="utf-8")
    library.parent.mkdir()
    flags = [f"-I{tf.sysconfig.get_include()}", *tf.sysconfig.get_link_flags()]
    subprocess.run(["g++", "-shared", "-fPIC", "-O0", "-w", "-o", library, source, *flags], check=True, timeout=300)
    model = tmp_path / "tripler" / "1"
    subprocess.run([sys.executable, "-c", SAVE, library, model], check=True, timeout=200)

    assert main(["check", str(model)]) == 1
    assert "no op DarkroomTriple: give its library with --custom_op_paths" in capsys.readouterr().err
    with_it = check(model, f"--custom_op_paths={library.parent}")
    assert with_it.returncode == 0, with_it.stderr
    assert "pass    freeze: in force" in with_it.stdout
    assert "y: [" in with_it.stdout
