"""The OpenAPI 3.1 document: every operation of the server, with the models that are served in its examples."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from darkroom.service.config.tokens import Scope
from darkroom.service.errors import TABLE
from darkroom.service.web.clients import example_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from darkroom.service.serving.registry import Registry, Target

JSON, TEXT = "application/json", "text/plain"
STS, TFS, OIP = "Simple TensorFlow Serving", "TensorFlow Serving", "Open Inference Protocol"
OPERATOR, HEALTH, PAGES = "Operator", "Health and metrics", "Pages"
# What every operation may come to besides: the edge's own refusals, and an operator's.
EDGE_STATUSES = frozenset({400, 401, 403, 404, 408, 413, 431, 500, 503})
PREDICT_STATUSES = (
    EDGE_STATUSES | {verdict.status for verdict in TABLE.values()} | {v.sts_status for v in TABLE.values()}
)


class Operation(NamedTuple):
    """One method of one path.

    Attributes:
        path: with its parameters in braces.
        body: which of BODIES it takes; empty: none.
        answers: the content type of what it answers with 200.
        query: the names of its query parameters.
        scope: what a token needs for it; None: nothing is asked.
    """

    method: str
    path: str
    tag: str
    summary: str
    body: str = ""
    answers: str = JSON
    query: tuple[str, ...] = ()
    scope: Scope | None = Scope.PREDICT


def _tfs() -> list[Operation]:
    model = "/v1/models/{name}"
    found = [Operation("get", "/v1/models", TFS, "The models, as a list")]
    for which in ("", "/versions/{version}", "/labels/{label}"):
        of = f"{model}{which}"
        found += [
            Operation("post", f"{of}:predict", TFS, "Predict, by row or by column", "instances"),
            Operation("post", f"{of}:classify", TFS, "Scores with their labels, for tf.Examples", "examples"),
            Operation("post", f"{of}:regress", TFS, "One value each, for tf.Examples", "examples"),
            Operation("get", of, TFS, "The state of the versions"),
            Operation("get", f"{of}/metadata", TFS, "The signatures"),
        ]
    return [*found, Operation("get", f"{model}/labels", TFS, "The class labels, in class order")]


def _oip() -> list[Operation]:
    found = [Operation("get", "/v2", OIP, "Name, version and extensions of the server")]
    for which in ("", "/versions/{version}"):
        of = f"/v2/models/{{name}}{which}"
        found += [
            Operation("get", of, OIP, "Versions, inputs and outputs"),
            Operation("get", f"{of}/ready", OIP, "Whether the model can be asked"),
            Operation("post", f"{of}/infer", OIP, "Predict: JSON, binary tensors, or one raw tensor", "tensors"),
        ]
    return [
        *found,
        Operation("post", "/v2/repository/index", OIP, "Every version that is known, with its state", "any"),
    ]


def _operator() -> list[Operation]:
    found = [
        Operation("post", f"{of}/{act}", OPERATOR, f"{act.capitalize()} a model", "any", scope=Scope.ADMIN)
        for of in ("/admin/models/{name}", "/v2/repository/models/{name}")
        for act in ("load", "unload")
    ]
    return [
        Operation("get", "/admin/models", OPERATOR, "Every version that is known", scope=Scope.ADMIN),
        *found,
        Operation("put", "/admin/models/{name}/labels", OPERATOR, "Set a model's labels", "labels", scope=Scope.ADMIN),
    ]


OPERATIONS = (
    Operation("post", "/", STS, "Predict: JSON, form-data or one raw picture", "data", query=("top_k", "on_error")),
    Operation("get", "/v1/models/{name}/gen_json", STS, "A body of POST / that works", query=("signature_name",)),
    Operation(
        "get",
        "/v1/models/{name}/gen_client",
        STS,
        "A client that runs as it is",
        "",
        TEXT,
        ("language", "signature_name"),
    ),
    *_tfs(),
    *_oip(),
    Operation("get", "/health", HEALTH, "healthy, once requests are answered", "", TEXT, scope=None),
    Operation("get", "/v2/health/live", HEALTH, "The process answers", scope=None),
    Operation("get", "/v2/health/ready", HEALTH, "Whether to send requests here", scope=None),
    Operation("get", "/metrics", HEALTH, "Prometheus' text format", "", TEXT, scope=Scope.METRICS),
    Operation("get", "/monitoring/prometheus/metrics", HEALTH, "The same as /metrics", "", TEXT, scope=Scope.METRICS),
    *_operator(),
    *(
        Operation("get", path, PAGES, summary, "", "text/html")
        for path, summary in (
            ("/", "The models"),
            ("/image_inference", "Choose a picture, see the labels"),
            ("/json_inference", "Write a body, see the answer"),
            ("/generate_clients", "Clients to take away"),
            ("/docs", "This document, to read"),
        )
    ),
    Operation("get", "/web/{name}", PAGES, "What the pages load", "", "*/*"),
    Operation("get", "/openapi.json", PAGES, "This document"),
)


def document(catalogue: Registry, version: str, *, has_auth: bool) -> dict[str, Any]:
    """The document of a server; `has_auth`: it asks callers who they are."""
    targets = [next(iter(catalogue.version(name).values())) for name in catalogue.models() if catalogue.versions(name)]
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        described = _describe(operation, targets)
        if has_auth and operation.scope is not None:
            described["security"] = [{"basic": []}, {"bearer": []}]
        paths.setdefault(operation.path, {})[operation.method] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Darkroom",
            "version": version,
            "description": "TensorFlow image models over HTTP, batched, every caller its own answer.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": {
                "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
            },
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _describe(operation: Operation, targets: list[Target]) -> dict[str, Any]:
    """One operation object."""
    is_predict = operation.body in {"data", "instances", "examples", "tensors"}
    statuses = sorted(PREDICT_STATUSES if is_predict else EDGE_STATUSES)
    described: dict[str, Any] = {
        "operationId": f"{operation.method}{operation.path}".translate({ord(c): "_" for c in "/{}:."}),
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(operation, targets),
        "responses": {"200": _answer(operation)} | {str(status): _error(status) for status in statuses},
    }
    if operation.scope is not None:
        described["description"] = f"A token needs the scope `{operation.scope}`."
    if operation.body:
        described["requestBody"] = {"required": operation.body != "any", "content": BODIES[operation.body](targets)}
    return described


def _parameters(operation: Operation, targets: list[Target]) -> list[dict[str, Any]]:
    """What stands in the path and in the query, all of it text; a model that is served is the example."""
    served = {"name": targets[0].model.name, "version": str(targets[0].model.version)} if targets else {}
    found = []
    for name in [part.split("}")[0] for part in operation.path.split("{")[1:]]:
        example = {"example": served[name]} if name in served and operation.tag != PAGES else {}
        found.append({"name": name, "in": "path", "required": True, "schema": _TEXT | {"minLength": 1}} | example)
    return [*found, *({"name": name, "in": "query", "schema": _TEXT} for name in operation.query)]


def _answer(operation: Operation) -> dict[str, Any]:
    """The response object of 200."""
    return {"description": operation.summary, "content": {operation.answers: {"schema": {}}}}


def _error(status: int) -> dict[str, Any]:
    """The response object of a refusal; that of a stranger, and the health of STS, are text."""
    content: dict[str, Any] = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": HTTPStatus(status).phrase, "content": content | {TEXT: {"schema": _TEXT}}}


def _example(targets: list[Target], write: Callable[[Target], Any]) -> dict[str, Any]:
    """One example a model that pictures can be sent to."""
    return {
        f"{target.model.name} {target.model.version}": {"value": write(target)}
        for target in targets
        if target.spec.image_input is not None and len(target.spec.inputs) == 1
    }


def _instances(target: Target) -> dict[str, Any]:
    return {"signature_name": target.spec.name, "instances": [{"b64": _picture(target)}]}


def _tensors(target: Target) -> dict[str, Any]:
    tensor = {"name": target.field, "shape": [1], "datatype": "BYTES", "data": [_picture(target)]}
    return {"inputs": [tensor], "parameters": {"signature_name": target.spec.name}}


def _picture(target: Target) -> str:
    """The sample picture as base64."""
    text: str = example_json(target)["data"][target.field][0]
    return text


def _json(schema: dict[str, Any], examples: dict[str, Any] | None = None) -> dict[str, Any]:
    """The content of a JSON body."""
    return {JSON: {"schema": schema} | ({"examples": examples} if examples else {})}


def _object(required: tuple[str, ...], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_TEXT: dict[str, Any] = {"type": "string"}
_FILE: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
_ON_ERROR: dict[str, Any] = {"enum": ["fail", "per_image"]}
_TOP_K: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 999_999}
_DATA = _object(
    ("data",),
    data={"type": "object"},
    model_name=_TEXT,
    model_version={"type": "integer", "minimum": 0},
    signature_name=_TEXT,
    top_k=_TOP_K,
    on_error=_ON_ERROR,
    base64_decode={"type": "boolean"},
)
_FORM = _object((), image=_FILE, images={"type": "array", "items": _FILE}, top_k=_TEXT, on_error=_ON_ERROR)
_RAW: dict[str, Any] = {"image/*": {"schema": _FILE}, "application/octet-stream": {"schema": _FILE}}
_INSTANCES = _object((), signature_name=_TEXT, instances={"type": "array"}, inputs={})
_EXAMPLES = _object(("examples",), signature_name=_TEXT, examples={"type": "array"}, context={"type": "object"})
_TENSOR = _object(("name", "shape", "datatype"), name=_TEXT, shape={"type": "array"}, datatype=_TEXT, data={})
_TENSORS = _object(
    ("inputs",),
    id=_TEXT,
    inputs={"type": "array", "items": _TENSOR},
    outputs={"type": "array"},
    parameters={"type": "object"},
)
_LABELS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "integer"}}

BODIES: dict[str, Callable[[list[Target]], dict[str, Any]]] = {
    "data": lambda targets: (
        _json(_DATA, _example(targets, example_json)) | {"multipart/form-data": {"schema": _FORM}} | _RAW
    ),
    "instances": lambda targets: _json(_INSTANCES, _example(targets, _instances)) | _RAW,
    "examples": lambda _: _json(_EXAMPLES),
    "tensors": lambda targets: _json(_TENSORS, _example(targets, _tensors)) | _RAW,
    "labels": lambda _: _json(_LABELS),
    "any": lambda _: _json({"type": "object"}),
}
