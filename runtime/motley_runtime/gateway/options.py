"""The gateway's flags and settings. Imports nothing heavy: every `motley` command loads it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from motley_runtime.gateway.option_types import count, hourly, names, namespaced, port, seconds

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
    first_byte_s: float = 600.0
    prefill_s: float = 120.0
    answer_s: float = 600.0
    idle_s: float = 60.0
    client_s: float = 60.0
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Sharing:
    """How many requests are at work, how many wait, and for how long."""

    in_flight: int = 2048
    waiting: int = 2048
    wait_s: float = 30.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """How one gateway process runs."""

    host: str = "0.0.0.0"
    port: int = 8000
    routing_file: Path | None = None
    routing_configmap: tuple[str, str] | None = None
    api_keys_dir: Path | None = None
    state_dir: Path | None = None
    commands_dir: Path | None = None
    trust_zones: frozenset[str] | None = None
    affinity: str = "prefix"
    streaming: str = "buffer"
    optimistic_tokens: int = 32
    canaries_per_hour: float | None = None
    deadline_s: float | None = None
    most_branches: int = 8
    sharing: Sharing = Sharing()
    drain_s: float = 60.0
    settle_s: float = 3.0
    log_format: str = "json"
    otlp_endpoint: str | None = None
    otlp_share: float = 1.0
    limits: Limits = Limits()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the gateway's flags to a parser."""
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")
    parser.add_argument("--port", type=port, default=8000, help="port (default: 8000; 0: any)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--routing-file",
        type=Path,
        metavar="PATH",
        help="read the plan's routing from this JSON file; a change is picked up within 0.2 s",
    )
    source.add_argument(
        "--routing-configmap",
        type=namespaced,
        metavar="NAMESPACE/NAME",
        help="watch this ConfigMap (key routing.json) with the pod's service account",
    )
    parser.add_argument(
        "--api-keys-dir",
        type=Path,
        metavar="DIR",
        help="accept only the keys in this directory (a mounted Secret: one file a client, one "
        "key a line, plain or sha256:<hex>, and lines such as concurrency=8); without it every "
        "client is served",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="keep the last good routing here and start from it, should the source be broken",
    )
    parser.add_argument(
        "--commands-dir",
        type=Path,
        metavar="DIR",
        help="let a plan's checks run the programs in this folder (default: none)",
    )
    parser.add_argument(
        "--trust-zones",
        type=names,
        metavar="ZONE,...",
        help="use only replicas in these trust zones (default: all)",
    )
    _add_behaviour(parser)
    _add_tracing(parser)
    _add_bounds(parser)
    parser.add_argument(
        "--drain-seconds",
        type=seconds,
        default=60.0,
        metavar="S",
        help="after SIGTERM wait this long for requests in flight (default: 60)",
    )
    parser.add_argument(
        "--settle-seconds",
        type=seconds,
        default=3.0,
        metavar="S",
        help="after SIGTERM go on accepting this long while not ready, so that Service endpoints "
        "can follow (default: 3)",
    )
    parser.add_argument(
        "--log-format", choices=("json", "text"), default="json", help="log lines (default: json)"
    )


def _add_tracing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--otlp-endpoint",
        metavar="URL",
        help="send OpenTelemetry spans to this OTLP/HTTP endpoint (needs motley[otel]; default: "
        "none; trace context is passed to engines anyway)",
    )
    parser.add_argument(
        "--otlp-share",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="share of the requests without a trace of their client's that is traced (default: 1)",
    )


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1")
    return value


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--affinity",
        choices=("prefix", "off"),
        default="prefix",
        help="prefer the replica that served a prompt's beginning or its session, where the "
        "planned rates allow it (default: prefix)",
    )
    parser.add_argument(
        "--streaming",
        choices=("buffer", "optimistic"),
        default="buffer",
        help="streams of a stage before the last: whole answers are scored (buffer, the default) "
        "or their first tokens, the rest being relayed as it comes",
    )
    parser.add_argument(
        "--optimistic-tokens",
        type=count,
        default=32,
        metavar="N",
        help="tokens held back and scored by --streaming optimistic (default: 32)",
    )
    parser.add_argument(
        "--canaries-per-hour",
        type=hourly,
        metavar="N",
        help="ask every stage so many questions with known answers an hour, and raise an alarm "
        "where it gets worse (default: none)",
    )
    parser.add_argument(
        "--deadline-seconds",
        type=seconds,
        metavar="S",
        help="deadline of requests without x-motley-deadline-ms: escalate only if the next stage "
        "is expected to answer in time (default: none)",
    )


def settings_of(args: argparse.Namespace) -> GatewaySettings:
    """The settings that parsed flags describe."""
    return GatewaySettings(
        host=args.host,
        port=args.port,
        routing_file=args.routing_file,
        routing_configmap=args.routing_configmap,
        api_keys_dir=args.api_keys_dir,
        state_dir=args.state_dir,
        commands_dir=args.commands_dir,
        trust_zones=args.trust_zones,
        affinity=args.affinity,
        streaming=args.streaming,
        optimistic_tokens=args.optimistic_tokens,
        canaries_per_hour=args.canaries_per_hour,
        deadline_s=args.deadline_seconds,
        most_branches=args.max_branches,
        sharing=Sharing(args.max_in_flight, args.max_waiting, args.wait_seconds),
        drain_s=args.drain_seconds,
        settle_s=args.settle_seconds,
        log_format=args.log_format,
        otlp_endpoint=args.otlp_endpoint,
        otlp_share=args.otlp_share,
        limits=Limits(
            connect_s=args.connect_seconds,
            first_byte_s=args.first_byte_seconds,
            prefill_s=args.prefill_seconds,
            answer_s=args.answer_seconds,
            idle_s=args.idle_seconds,
            client_s=args.client_seconds,
        ),
    )


_LIMITS, _SHARING = Limits(), Sharing()
_Row = tuple[str, Callable[[str], float], float, str]
_BOUNDS: tuple[_Row, ...] = (
    ("max-in-flight", count, _SHARING.in_flight, "requests at work at the same time"),
    ("max-waiting", count, _SHARING.waiting, "requests that may wait for their turn"),
    ("max-branches", count, 8, "branches that a request may ask for; its stage may give more"),
    ("wait-seconds", seconds, _SHARING.wait_s, "longest wait for a turn"),
    ("connect-seconds", seconds, _LIMITS.connect_s, "longest wait for an engine's connection"),
    (
        "first-byte-seconds",
        seconds,
        _LIMITS.first_byte_s,
        "longest wait for a stream's first bytes",
    ),
    (
        "prefill-seconds",
        seconds,
        _LIMITS.prefill_s,
        "longest wait for a prefill replica, before a request goes another way",
    ),
    ("answer-seconds", seconds, _LIMITS.answer_s, "longest wait for a whole answer"),
    ("idle-seconds", seconds, _LIMITS.idle_s, "longest silence in a stream"),
    ("client-seconds", seconds, _LIMITS.client_s, "longest wait for a client that reads nothing"),
)


def _add_bounds(parser: argparse.ArgumentParser) -> None:
    for name, kind, default, text in _BOUNDS:
        unit = "N" if kind is count else "S"
        said = f"{text} (default: {default:g})"
        parser.add_argument(f"--{name}", type=kind, default=default, metavar=unit, help=said)
