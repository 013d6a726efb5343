"""How TensorFlow Serving's users replace its list of models: the documented call, from a file of protobuf text."""

import json
import sys
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2


def reload(stub: Any, text: str, **fields: Any) -> Any:
    """The answer to one HandleReloadConfigRequest."""
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    return stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(config=config, **fields), 120.0)


def refusal(stub: Any, text: str) -> list[str]:
    """The status and the words with which a list is refused."""
    try:
        reload(stub, text)
    except grpc.RpcError as err:
        return [err.code().name, err.details()]
    raise AssertionError(text)


def state(stub: Any, model: str) -> Any:
    """The states of a model's versions; the status code of a refusal."""
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = model
    try:
        return [each.state for each in stub.GetModelStatus(request, 60.0).model_version_status]
    except grpc.RpcError as err:
        return err.code().name


def main(address: str, file: str) -> None:
    """Replaces the list of models and prints what came."""
    channel = grpc.insecure_channel(address)
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.version_label = "second", "stable"
    request.inputs["images"].string_val.append(b"\xff\xd8\xff")
    before = [state(stub, "first"), state(stub, "second")]
    answer = reload(stub, Path(file).read_text(), metric_names=["/tensorflow/serving/x"])
    after = [state(stub, "first"), state(stub, "second")]
    try:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, 60.0)
    except grpc.RpcError as err:  # what it sent is no picture; it found the model by its label
        predicted = err.code().name
    label = "version_labels { key: 'stable' value: 7 }"
    told = {
        "before": before,
        "status": answer.status.error_code,
        "metrics": [[each.name, each.int64_value_increase] for each in answer.metric],
        "after": after,
        "predicted": predicted,
        "missing": refusal(stub, "model_config_list { config { name: 'a' base_path: '/no/such' } }"),
        "label": refusal(stub, f"model_config_list {{ config {{ name: 'a' base_path: 'fake' {label} }} }}"),
        "none": refusal(stub, ""),
        "twice": refusal(
            stub, "model_config_list { config { name: 'a' base_path: 'b' } config { name: 'a' base_path: 'b' } }"
        ),
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
