"""`/openapi.json`: the OpenAPI 3.1 document of every operation, with the models that are served in its examples.

It is built here and not kept as a file: written out, the same document has over 2,000 lines of YAML.
The page that shows it is `service/api/web/html/docs.html`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from darkroom.models.saved_model.output_kinds import FORMS
from darkroom.service.api.web.clients import example_json
from darkroom.service.config.tokens import Scope
from darkroom.service.errors import ERROR_HEADER, HTTP_CODES, TABLE
from darkroom.service.http.middleware import json_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from sanic.request import Request
    from sanic.response import HTTPResponse

    from darkroom.service.http.middleware import App
    from darkroom.service.parts import Darkroom
    from darkroom.service.serving.registry import Registry
    from darkroom.service.serving.servable import Target

JSON, TEXT = "application/json", "text/plain"
STS, TFS, OIP = "Simple TensorFlow Serving", "TensorFlow Serving", "Open Inference Protocol"
OPERATOR, HEALTH, PAGES = "Operator", "Health and metrics", "Pages"
# The errors that every operation may answer: those of Sanic and the middleware, and the refusal of an operator's route.
EDGE_STATUSES = frozenset({400, 401, 403, 404, 408, 413, 431, 500, 503})
PREDICT_STATUSES = (
    EDGE_STATUSES | {verdict.status for verdict in TABLE.values()} | {v.sts_status for v in TABLE.values()}
)


class Operation(NamedTuple):
    """One method of one path.

    Attributes:
        path: with its parameters in braces.
        body: the key of its body in BODIES; empty if it takes none.
        answers: the content type of its 200.
        query: the names of its query parameters.
        scope: the scope that a token needs; None if no credentials are needed.
    """

    method: str
    path: str
    tag: str
    summary: str
    body: str = ""
    answers: str = JSON
    query: tuple[str, ...] = ()
    scope: Scope | None = Scope.PREDICT


_TFS_MODEL = "/v1/models/{name}"
_SHAPE = ("top_k", "as", "threshold", "on_error")  # of the answer to a raw picture
OPERATIONS = (
    Operation("post", "/", STS, "Predict: JSON, form-data or one raw picture", "data", query=_SHAPE),
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
    Operation("get", "/v1/models", TFS, "The models, as a list"),
    *(
        operation
        for of in (f"{_TFS_MODEL}{which}" for which in ("", "/versions/{version}", "/labels/{label}"))
        for operation in (
            Operation("post", f"{of}:predict", TFS, "Predict, by row or by column", "instances", query=_SHAPE),
            Operation("post", f"{of}:classify", TFS, "Scores with their labels, for tf.Examples", "examples"),
            Operation("post", f"{of}:regress", TFS, "One value each, for tf.Examples", "examples"),
            Operation("get", of, TFS, "The state of the versions"),
            Operation("get", f"{of}/metadata", TFS, "The signatures"),
        )
    ),
    Operation("get", f"{_TFS_MODEL}/labels", TFS, "The class labels, in class order"),
    Operation("get", "/v2", OIP, "Name, version and extensions of the server"),
    *(
        operation
        for of in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
        for operation in (
            Operation("get", of, OIP, "Versions, inputs and outputs"),
            Operation("get", f"{of}/ready", OIP, "Whether the model can be asked"),
            Operation("get", f"{of}/config", OIP, "The configuration, as Triton has it"),
            Operation("get", f"{of}/stats", OIP, "Counts and times, as Triton has them"),
            Operation("post", f"{of}/infer", OIP, "Predict: JSON, binary tensors, or one raw tensor", "tensors"),
        )
    ),
    Operation("get", "/v2/models/stats", OIP, "Counts and times of all models, as Triton has them"),
    Operation("post", "/v2/repository/index", OIP, "Every version that is known, with its state", "any"),
    Operation("get", "/health", HEALTH, "healthy, once requests are answered", "", TEXT, scope=None),
    Operation("get", "/v2/health/live", HEALTH, "The process answers", scope=None),
    Operation("get", "/v2/health/ready", HEALTH, "Whether to send requests here", scope=None),
    Operation("get", "/metrics", HEALTH, "Prometheus' text format", "", TEXT, scope=Scope.METRICS),
    Operation("get", "/monitoring/prometheus/metrics", HEALTH, "The same as /metrics", "", TEXT, scope=Scope.METRICS),
    Operation("get", "/admin/models", OPERATOR, "Every version that is known", scope=Scope.ADMIN),
    *(
        Operation("post", f"{of}/{act}", OPERATOR, f"{act.capitalize()} a model", "any", scope=Scope.ADMIN)
        for of in ("/admin/models/{name}", "/v2/repository/models/{name}")
        for act in ("load", "unload")
    ),
    Operation("put", "/admin/models/{name}/labels", OPERATOR, "Set a model's labels", "labels", scope=Scope.ADMIN),
    Operation("get", "/admin/models/{name}/traffic", OPERATOR, "Which versions answer", scope=Scope.ADMIN),
    Operation(
        "put", "/admin/models/{name}/traffic", OPERATOR, "Set which versions answer", "traffic", scope=Scope.ADMIN
    ),
    *(
        Operation("get", path, PAGES, summary, "", "text/html")
        for path, summary in (
            ("/", "The models"),
            ("/image_inference", "Choose pictures, see what the model makes of them"),
            ("/live", "The last minutes as charts that move"),
            ("/json_inference", "Write a body, see the answer"),
            ("/generate_clients", "Clients to take away"),
            ("/docs", "This document, to read"),
        )
    ),
    Operation("get", "/live/events", PAGES, "The last minutes, as JSON or as server-sent events", scope=Scope.METRICS),
    Operation("get", "/web/{name}", PAGES, "What the pages load", "", "*/*"),
    Operation("get", "/openapi.json", PAGES, "This document"),
)


def add_openapi_routes(app: App, darkroom: Darkroom) -> None:
    """Adds `/openapi.json`."""

    async def openapi(_: Request) -> HTTPResponse:
        """The document, with the models that are served now."""
        return json_response(document(darkroom.registry, darkroom.version, has_auth=darkroom.settings.has_auth))

    darkroom.middleware.route(app, "GET", "/openapi.json", openapi)


def document(registry: Registry, version: str, *, has_auth: bool) -> dict[str, Any]:
    """The document of a server; `has_auth`: its clients need credentials."""
    targets = [next(iter(registry.version(name).values())) for name in registry.models() if registry.versions(name)]
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
                "Error": _object(("error",), error=_TEXT, code=_CODE),
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
    # Path and query parameters are all text; a model that is served is the example.
    served = {"name": targets[0].model.name, "version": str(targets[0].model.version)} if targets else {}
    parameters = []
    for name in [part.split("}")[0] for part in operation.path.split("{")[1:]]:
        example = {"example": served[name]} if name in served and operation.tag != PAGES else {}
        parameters.append({"name": name, "in": "path", "required": True, "schema": _TEXT | {"minLength": 1}} | example)
    parameters += [{"name": name, "in": "query", "schema": _TEXT} for name in operation.query]
    answer = {"description": operation.summary, "content": {operation.answers: {"schema": {}}}}
    described: dict[str, Any] = {
        "operationId": f"{operation.method}{operation.path}".translate({ord(c): "_" for c in "/{}:."}),
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {"200": answer} | {str(status): _error(status) for status in statuses},
    }
    if operation.scope is not None:
        described["description"] = f"A token needs the scope `{operation.scope}`."
    if operation.body:
        described["requestBody"] = {"required": operation.body != "any", "content": BODIES[operation.body](targets)}
    return described


def _error(status: int) -> dict[str, Any]:
    """The response object of an error; a 401, and the 503 of STS's `/health`, are text."""
    content: dict[str, Any] = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}, TEXT: {"schema": _TEXT}}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": {ERROR_HEADER: {"schema": _CODE}},
        "content": content,
    }


def _example(targets: list[Target], write: Callable[[Target], Any]) -> dict[str, Any]:
    """One example for each model whose one input takes pictures."""
    return {
        f"{target.model.name} {target.model.version}": {"value": write(target)}
        for target in targets
        if target.spec.image_input is not None and len(target.spec.inputs) == 1
    }


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
_CODE: dict[str, Any] = {"enum": sorted({verdict.code for verdict in TABLE.values()} | set(HTTP_CODES.values()))}
_FILE: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
_ON_ERROR: dict[str, Any] = {"enum": ["fail", "per_image"]}
_TOP_K: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 999_999}
_FORMS: dict[str, Any] = {
    "as": {"oneOf": [{"enum": list(FORMS)}, {"type": "object", "additionalProperties": {"enum": list(FORMS)}}]},
    "threshold": {"type": "number"},
}
_DATA = _object(
    ("data",),
    data={"type": "object"},
    model_name=_TEXT,
    model_version={"type": "integer", "minimum": 0},
    signature_name=_TEXT,
    top_k=_TOP_K,
    on_error=_ON_ERROR,
    base64_decode={"type": "boolean"},
    **_FORMS,
)
_FORM = _object(
    (),
    image=_FILE,
    images={"type": "array", "items": _FILE},
    top_k=_TEXT,
    on_error=_ON_ERROR,
    **{"as": _TEXT, "threshold": _TEXT},
)
_RAW: dict[str, Any] = {"image/*": {"schema": _FILE}, "application/octet-stream": {"schema": _FILE}}
_INSTANCES = _object((), signature_name=_TEXT, instances={"type": "array"}, inputs={}, **_FORMS)
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
_TRAFFIC = _object(
    (),
    split={"type": "object", "additionalProperties": {"type": "number", "minimum": 0}},
    sticky=_TEXT,
    shadow=_object(
        ("version",),
        version={"type": ["integer", "string"]},
        share={"type": "number", "maximum": 1},
        busy={"type": "number", "maximum": 1},
    ),
)

BODIES: dict[str, Callable[[list[Target]], dict[str, Any]]] = {
    "data": lambda targets: (
        _json(_DATA, _example(targets, example_json)) | {"multipart/form-data": {"schema": _FORM}} | _RAW
    ),
    "instances": lambda targets: (
        _json(
            _INSTANCES,
            _example(
                targets,
                lambda target: {"signature_name": target.spec.name, "instances": [{"b64": _picture(target)}]},
            ),
        )
        | _RAW
    ),
    "examples": lambda _: _json(_EXAMPLES),
    "tensors": lambda targets: (
        _json(
            _TENSORS,
            _example(
                targets,
                lambda target: {
                    "inputs": [{"name": target.field, "shape": [1], "datatype": "BYTES", "data": [_picture(target)]}],
                    "parameters": {"signature_name": target.spec.name},
                },
            ),
        )
        | _RAW
    ),
    "labels": lambda _: _json(_LABELS),
    "traffic": lambda _: _json(_TRAFFIC),
    "any": lambda _: _json({"type": "object"}),
}
