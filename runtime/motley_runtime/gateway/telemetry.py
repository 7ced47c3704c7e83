"""Which tracing a gateway has: none but the passing on of context, or OpenTelemetry's spans."""

from __future__ import annotations

from motley_runtime.gateway.tracing import Tracing


def tracing_to(endpoint: str | None, share: float) -> Tracing:
    """What an endpoint asks for: spans of this share of requests, or none without one.

    Raises: RuntimeError where the extra is not installed.
    """
    if endpoint is None:
        return Tracing()
    try:
        from motley_runtime.gateway.otel import OtelTracing
    except ImportError as error:
        text = "--otlp-endpoint needs OpenTelemetry: pip install 'motley[otel]'"
        raise RuntimeError(text) from error
    return OtelTracing.to_endpoint(endpoint, share)
