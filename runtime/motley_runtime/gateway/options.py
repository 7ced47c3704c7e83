"""The gateway's flags and settings. Imports nothing heavy: every `motley` command loads it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

DESCRIPTION = (
    "Serve one pool or cascade over the OpenAI API: send each request to the replicas of its "
    "plan at the planned rates, and pass a cascade's answers to the next stage until one scores "
    "at or above the plan's threshold. The plan is read from a routing file or watched in a "
    "ConfigMap and can change at any time; requests in flight finish on the plan they began with."
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost. Bytes, seconds and attempts."""

    body_bytes: int = 8 * 2**20
    head_bytes: int = 32 * 2**10
    answer_bytes: int = 32 * 2**20
    head_s: float = 10.0
    body_s: float = 30.0
    connect_s: float = 2.0
    answer_s: float = 600.0
    idle_s: float = 60.0
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """How one gateway process runs."""

    host: str = "0.0.0.0"
    port: int = 8000
    routing_file: Path | None = None
    routing_configmap: tuple[str, str] | None = None
    api_keys_dir: Path | None = None
    drain_s: float = 60.0
    settle_s: float = 3.0
    log_format: str = "json"
    limits: Limits = Limits()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the gateway's flags to a parser."""
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")
    parser.add_argument("--port", type=_port, default=8000, help="port (default: 8000; 0: any)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--routing-file",
        type=Path,
        metavar="PATH",
        help="read the plan's routing from this JSON file; a change is picked up within 0.2 s",
    )
    source.add_argument(
        "--routing-configmap",
        type=_namespaced,
        metavar="NAMESPACE/NAME",
        help="watch this ConfigMap (key routing.json) with the pod's service account",
    )
    parser.add_argument(
        "--api-keys-dir",
        type=Path,
        metavar="DIR",
        help="accept only the keys in this directory (a mounted Secret: one file a client, one "
        "key a line, plain or sha256:<hex>); without it every client is served",
    )
    parser.add_argument(
        "--drain-seconds",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="after SIGTERM wait this long for requests in flight (default: 60)",
    )
    parser.add_argument(
        "--settle-seconds",
        type=_seconds,
        default=3.0,
        metavar="S",
        help="after SIGTERM go on accepting this long while not ready, so that Service endpoints "
        "can follow (default: 3)",
    )
    parser.add_argument(
        "--answer-seconds",
        type=_seconds,
        default=600.0,
        metavar="S",
        help="longest wait for a whole answer, or for a stream's first token (default: 600)",
    )
    parser.add_argument(
        "--log-format", choices=("json", "text"), default="json", help="log lines (default: json)"
    )


def settings_of(args: argparse.Namespace) -> GatewaySettings:
    """The settings that parsed flags describe."""
    return GatewaySettings(
        host=args.host,
        port=args.port,
        routing_file=args.routing_file,
        routing_configmap=args.routing_configmap,
        api_keys_dir=args.api_keys_dir,
        drain_s=args.drain_seconds,
        settle_s=args.settle_seconds,
        log_format=args.log_format,
        limits=Limits(answer_s=args.answer_seconds),
    )


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port (0 to 65535)")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def _namespaced(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAMESPACE/NAME")
    return namespace, name
