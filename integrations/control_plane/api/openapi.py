"""The OpenAPI document: FastAPI's, with the schema of the profile, which is guarddb's own model."""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from guarddb import PolicyProfile

from . import action_policies

DESCRIPTION = """Policy profiles for the SQL that AI agents write: stored, versioned, tested and followed live.

Keys go into `Authorization: Bearer <key>`; the routes of action policies and events take `X-API-Key` too.
Every failed request answers `{"error": {"code", "message"}}`.
"""


def _profile_schemas() -> dict[str, Any]:
    schema = PolicyProfile.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = {
        name: action_policies.nullable(part) if "properties" in part else part
        for name, part in schema.pop("$defs", {}).items()
    }
    schemas: dict[str, Any] = {**parts, **action_policies.schemas()}
    stored = {"id", "project_id", "created_at", "updated_at"}
    properties = schema["properties"]
    own = {key: value for key, value in properties.items() if key not in stored}
    body = action_policies.nullable({**schema, "properties": own})
    schemas["PolicyProfileInput"] = {**body, "title": "PolicyProfileInput"}
    schemas["PolicyProfileDraft"] = {**body, "title": "PolicyProfileDraft", "required": []}
    schemas["PolicyProfileDraft"] = action_policies.nullable(schemas["PolicyProfileDraft"])
    shown = {
        key: {"type": "string", **({"format": "date-time"} if key.endswith("_at") else {})} for key in stored
    }
    schemas["PolicyProfile"] = {
        **schema,
        "properties": {**properties, **shown},
        "required": ["id", "project_id", "name", "created_at", "updated_at"],
    }
    return schemas


def install(app: FastAPI) -> None:
    """Make `app.openapi()` tell the whole truth."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes
            )
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(_profile_schemas())
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            for path, methods in document["paths"].items():
                open_to_all = path in {"/healthz", "/metrics", "/v1/signing-key"}
                for operation in methods.values():
                    # FastAPI documents 422 for whatever takes a parameter; here it is 400, and documented as such.
                    if path.startswith("/v1/") or open_to_all:
                        operation["responses"].pop("422", None)
                    if not open_to_all:
                        schemes: list[dict[str, list[str]]] = [{"bearer": []}]
                        if "{project_id}" not in path:
                            schemes.append({"api_key": []})
                        operation["security"] = schemes
            app.openapi_schema = json.loads(json.dumps(document))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def methods_of(app: FastAPI, path: str) -> list[str]:
    """The methods that a path answers to."""
    found: set[str] = set()
    for template, methods in app.openapi()["paths"].items():
        pattern = "/".join(
            "[^/]+" if part.startswith("{") else re.escape(part) for part in template.split("/")
        )
        if re.fullmatch(pattern, path):
            found.update(method.upper() for method in methods)
    return sorted(found)
