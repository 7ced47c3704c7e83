"""A device plugin that offers GPUs which are not there, as NVIDIA's offers those that are.

    python -m e2e.cluster.device_plugin --count 4 [--resource nvidia.com/gpu]

It serves the kubelet's device plugin API (v1beta1) on a socket beside the kubelet's own, registers,
and does so again whenever its socket has vanished: a kubelet empties the folder when it starts. A
container that gets a device finds its name in NVIDIA_VISIBLE_DEVICES and no file under /dev.

Messages are so few and so small that they are written and read by hand (field numbers of
k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1/api.proto), so that no generated code is kept.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

FOLDER = Path("/var/lib/kubelet/device-plugins")
VERSION = "v1beta1"
LOOK_S = 0.2


def varint(value: int) -> bytes:
    """A number in protobuf's base-128 form."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: bytes | str) -> bytes:
    """A field with a length: a string, bytes or a message."""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field that has a length; others are skipped.

    Raises: ValueError if the message is cut off or has a group.
    """
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data):
                raise ValueError("the message is cut off")
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        kind = tag & 7
        if kind == 0:
            number()
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"wire type {kind}")
        size = number() if kind == 2 else {1: 8, 5: 4}[kind]
        if at + size > len(data):
            raise ValueError("the message is cut off")
        if kind == 2:
            yield tag >> 3, data[at : at + size]
        at += size


def register_request(endpoint: str, resource: str) -> bytes:
    """RegisterRequest."""
    return field(1, VERSION) + field(2, endpoint) + field(3, resource)


def device_list(names: Sequence[str]) -> bytes:
    """ListAndWatchResponse: all of them healthy."""
    return b"".join(field(1, field(1, name) + field(2, "Healthy")) for name in names)


def allocate_response(request: bytes) -> bytes:
    """AllocateResponse: each container is told the names of its devices."""
    out = b""
    for number, container in fields(request):
        if number == 1:
            names = ",".join(name.decode() for n, name in fields(container) if n == 1)
            variable = field(1, "NVIDIA_VISIBLE_DEVICES") + field(2, names)
            out += field(1, field(1, variable))
    return out


class Plugin(grpc.GenericRpcHandler):
    """The service; it says which devices there are once, and then holds the stream open."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self.is_over = names, threading.Event()

    def service(self, details: Any) -> Any:
        """The handler of a method, or None."""
        method = details.method.rpartition("/")[2]
        if method == "ListAndWatch":
            return grpc.unary_stream_rpc_method_handler(self._list)
        answers = {
            "GetDevicePluginOptions": lambda request, context: b"",
            "Allocate": lambda request, context: allocate_response(request),
            "PreStartContainer": lambda request, context: b"",
        }
        if method in answers:
            return grpc.unary_unary_rpc_method_handler(answers[method])
        return None

    def _list(self, request: bytes, context: Any) -> Iterator[bytes]:
        del request
        yield device_list(self._names)
        while context.is_active() and not self.is_over.wait(1.0):
            pass


def serve_once(folder: Path, resource: str, names: Sequence[str], ended: threading.Event) -> None:
    """Serves and registers, until the socket has vanished or it shall end.

    Raises: grpc.RpcError if the kubelet does not take it.
    """
    socket = folder / f"{resource.replace('/', '-')}.sock"
    socket.unlink(missing_ok=True)
    plugin = Plugin(names)
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((plugin,))
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    try:
        with grpc.insecure_channel(f"unix://{folder / 'kubelet.sock'}") as channel:
            register = channel.unary_unary(f"/{VERSION}.Registration/Register")
            register(register_request(socket.name, resource), timeout=5.0)
        print(f"device plugin: {len(names)} {resource} registered", flush=True)
        while socket.exists() and not ended.wait(LOOK_S):
            pass
    finally:
        plugin.is_over.set()
        server.stop(0.5).wait()


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(prog="device-plugin", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--resource", default="nvidia.com/gpu")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(argv)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    names = [f"GPU-{number}" for number in range(options.count)]
    while not ended.is_set():
        if (options.folder / "kubelet.sock").exists():
            try:
                serve_once(options.folder, options.resource, names, ended)
            except grpc.RpcError as error:
                print(f"device plugin: {error}", file=sys.stderr, flush=True)
        time.sleep(LOOK_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
