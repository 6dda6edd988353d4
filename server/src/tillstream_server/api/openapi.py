"""The API's description, in OpenAPI 3.1. Written by hand; a test holds it against the routes."""

from __future__ import annotations

from typing import Final

from ..auth import Permission, roles_with
from ..states import STATES

_OBJECT: Final = {"type": "object"}
_INTEGER: Final = {"type": "integer"}
_TEXT: Final = {"type": "string"}


def document() -> dict[str, object]:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tillstream", "version": "1", "description": "Head office's API. Every call needs a key."},
        "security": [{"key": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _error()},
            "responses": {"Error": _content("Refused; the error says why and what to do.", _ref("Error"))},
        },
    }


def _paths() -> dict[str, object]:
    window = [_query("from", "First date or instant."), _query("to", "First one no more."), _query("store", "A store.")]
    page = [
        _query("retailer", "Only this retailer."),
        _query("after", "The `next` of the page before."),
        _query("limit", "At most 1000."),
    ]
    till = [_needed(name, f"The {name}.") for name in ("retailer", "store", "till")]
    retailer, campaign = _path("retailer"), _path("campaign")
    return {
        "/api/v1/ledger/summary": {
            "get": _operation("ledgerSummary", "Figures of the ledger", "summaries", _summary(), window)
        },
        "/api/v1/offers/summary": {
            "get": _operation("offersSummary", "What campaigns decided", "summaries", _OBJECT, window)
        },
        **_fleet_paths(page, till),
        "/api/v1/tills/gaps": {
            "get": _operation("tillGaps", "What of a till's records is not here", "fleet", _OBJECT, till)
        },
        "/api/v1/tills/alarms": {
            "get": _operation(
                "tillAlarms",
                "What does not fit together in tills' histories",
                "fleet",
                _OBJECT,
                [*page, _query("settled", "Settled ones too: true or false.")],
            )
        },
        "/api/v1/campaigns/{retailer}": {
            "get": _operation("listCampaigns", "A retailer's campaigns", "read_campaigns", _OBJECT, [retailer])
        },
        "/api/v1/campaigns/{retailer}/{campaign}": {
            "get": _operation("getCampaign", "One campaign", "read_campaigns", _OBJECT, [retailer, campaign]),
            "put": {
                **_operation("putCampaign", "Put in force", "write_campaigns", _OBJECT, [retailer, campaign]),
                "requestBody": {"required": True, "content": {"application/json": {"schema": _OBJECT}}},
            },
            "delete": _operation("endCampaign", "Take out of force", "write_campaigns", _OBJECT, [retailer, campaign]),
        },
        "/api/openapi.json": {
            "get": {
                "operationId": "openapi",
                "summary": "This description",
                "security": [],
                "responses": {"200": _content("The description.", _OBJECT)},
            }
        },
    }


def _fleet_paths(page: list[dict[str, object]], till: list[dict[str, object]]) -> dict[str, object]:
    place = [_query("retailer", "Only this retailer."), _query("store", "Only this store.")]
    sort = [
        _query("state", f"Only tills in this state: {', '.join(STATES)}."),
        _query("version", "Only tills that run this version of the agent."),
    ]
    failed = [*place, _query("limit", "At most 1000.")]
    return {
        "/api/v1/tills": {"get": _operation("listTills", "The fleet", "fleet", _OBJECT, [*page, place[1], *sort])},
        "/api/v1/tills/counts": {
            "get": _operation("countTills", "How many tills are how", "fleet", _OBJECT, place),
        },
        "/api/v1/tills/failed-enrolments": {
            "get": _operation("failedEnrolments", "Who was not let in", "fleet", _OBJECT, failed),
        },
        "/api/v1/tills/one": {
            "get": _operation("showTill", "Everything that is known of a till", "fleet", _OBJECT, till),
        },
    }


def _operation(
    name: str, summary: str, permission: Permission, schema: object, parameters: list[dict[str, object]]
) -> dict[str, object]:
    return {
        "operationId": name,
        "summary": summary,
        "description": f"For the roles {', '.join(roles_with(permission))}.",
        "parameters": parameters,
        "responses": {"200": _content("Done.", schema), "default": {"$ref": "#/components/responses/Error"}},
    }


def _query(name: str, text: str) -> dict[str, object]:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": _TEXT}


def _needed(name: str, text: str) -> dict[str, object]:
    return {**_query(name, text), "required": True}


def _path(name: str) -> dict[str, object]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _content(text: str, schema: object) -> dict[str, object]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> dict[str, object]:
    return {"$ref": f"#/components/schemas/{name}"}


def _summary() -> dict[str, object]:
    counts = ("transactions", "duplicates_refused", "dead_letters", "tills")
    amounts = {"type": "object", "additionalProperties": _INTEGER, "description": "Minor units by currency."}
    return {
        "type": "object",
        "required": [*counts, "amount_minor"],
        "properties": {**dict.fromkeys(counts, _INTEGER), "amount_minor": amounts},
    }


def _error() -> dict[str, object]:
    texts = dict.fromkeys(("code", "message", "field", "limit", "hint"), _TEXT)
    body = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {**texts, "retryable": {"type": "boolean"}},
    }
    return {"type": "object", "required": ["error"], "properties": {"error": body}}
