"""What TensorFlow Serving's documented Python client does, unmodified: tensorflow-serving-api and TensorFlow."""

import json
import sys
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)


def predict(stub: Any, model: str, **inputs: Any) -> Any:
    """The answer to one Predict call."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_default"
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return stub.Predict(request, 60.0)


def examples(request: Any, signature: str, *values: float) -> Any:
    """A ClassificationRequest or a RegressionRequest with the feature `x`."""
    request.model_spec.name, request.model_spec.signature_name = "half_plus_two", signature
    for value in values:
        feature = tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        request.input.example_list.examples.add().CopyFrom(
            tf.train.Example(features=tf.train.Features(feature={"x": feature}))
        )
    return request


def main(address: str, picture: str) -> None:
    """Calls every method and prints what came."""
    with open(picture, "rb") as file:  # noqa: PTH123 - as the documentation has it
        data = file.read()
    channel = grpc.insecure_channel(address)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    status_request = get_model_status_pb2.GetModelStatusRequest()
    status_request.model_spec.name = "default"
    status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status_request, 60.0)
    metadata_request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata_request.model_spec.name = "half_plus_two"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    stub.GetModelMetadata(metadata_request, 60.0).metadata["signature_def"].Unpack(signatures)
    classes = stub.Classify(examples(classification_pb2.ClassificationRequest(), "classify_x_to_y", 20.0), 60.0)
    regressions = stub.Regress(examples(regression_pb2.RegressionRequest(), "regress_x_to_y", 80.0, 2.0), 60.0)
    told = {
        "digest": tf.make_ndarray(predict(stub, "default", images=[data]).outputs["digest"]).tolist(),
        "doubles": list(predict(stub, "half_plus_two", x=np.array([1, 2, 5], np.float32)).outputs["y"].float_val),
        "state": status.model_version_status[0].state == get_model_status_pb2.ModelVersionStatus.AVAILABLE,
        "signatures": sorted(signatures.signature_def),
        "dtype": signatures.signature_def["serving_default"].inputs["x"].dtype,
        "classes": [[each.label, each.score] for each in classes.result.classifications[0].classes],
        "regressions": [each.value for each in regressions.result.regressions],
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
