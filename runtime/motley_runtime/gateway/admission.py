"""Who asks, for which model and in which class: all that is decided before dispatch."""

from __future__ import annotations

from collections.abc import Mapping

from motley_planner.dispatch import Dispatcher, RoutingTable, classify
from motley_runtime.gateway.auth import ApiKeys
from motley_runtime.gateway.errors import GatewayError
from motley_runtime.gateway.live_routing import LiveRouting
from motley_runtime.gateway.openai_api import ParsedRequest, max_output_tokens, prompt_tokens


def client_of(keys: ApiKeys | None, headers: Mapping[bytes, bytes]) -> str | None:
    """The client's name; None where the gateway has no keys. Raises: GatewayError 401."""
    return None if keys is None else keys.client(headers.get(b"authorization"))


def dispatcher_of(live: LiveRouting) -> Dispatcher:
    """The dispatcher in force. Raises: GatewayError 503 before the first plan."""
    if live.current is None:
        raise GatewayError(503, "the gateway has no plan yet", "no_plan", retry_after_s=2)
    return live.current


def model_known(table: RoutingTable, model: str | None) -> None:
    """Checks the model a client names; one that names none gets the only thing served here.

    Raises: GatewayError 404.
    """
    if model is not None and model not in table.served_model_names:
        served = ", ".join(table.served_model_names)
        message = f"model {model[:200]!r} is not served here; served: {served}"
        raise GatewayError(404, message, "model_not_found", "model")


def class_of(table: RoutingTable, request: ParsedRequest, declared: bytes | None) -> str:
    """The class a request declares in x-motley-class, else the one of nearest prompt length.

    Raises: GatewayError 400 for a declared class the plan does not have.
    """
    if declared is not None:
        name = declared.decode("latin-1")
        if all(name != each.name for each in table.classes):
            known = ", ".join(each.name for each in table.classes)
            message = f"x-motley-class {name[:200]!r} is not a class of this plan; classes: {known}"
            raise GatewayError(400, message, "unknown_class")
        return name
    if len(table.classes) == 1:
        return table.classes[0].name
    return classify(table.classes, prompt_tokens(request), max_output_tokens(request)).name
