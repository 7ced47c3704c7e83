"""The fields by which two engines hand a prompt's KV cache over, as their own routers write them.

vLLM with its NIXL connector, one leg after the other: the prefill leg is asked for one token and to
keep its cache (`do_remote_decode`); it answers with the parameters by which a decode replica fetches
it, which go there as they are. SGLang, both legs at once: the same body goes to both, with the
address of the prefill replica's bootstrap server and a number that nobody else uses, by which the two
find each other.

Sources: vLLM's toy_proxy_server.py (tests of its NIXL integration) and SGLang's mini_lb.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from motley_runtime.gateway.errors import UpstreamError
from motley_runtime.gateway.openai_api import ParsedRequest
from motley_runtime.gateway.upstream import Answer

_ASK = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
# Of what is told by one token none can be asked for more, and streams have options of their own.
_NOT_OF_PREFILL = ("stream_options", "min_tokens", "min_completion_tokens")
_ROOM_BITS = 63


def is_pairable(request: ParsedRequest) -> bool:
    """Whether one prompt leads to one sequence, which is what a handshake is about."""
    body = request.body
    if not request.is_scored or body.get("use_beam_search") or body.get("echo"):
        return False
    if body.get("prompt_logprobs") is not None:
        return False
    if any(body.get(key) not in (None, 1) for key in ("n", "best_of")):
        return False
    prompt = body.get("prompt")
    return request.is_chat or isinstance(prompt, str) or _is_of_tokens(prompt)


def _is_of_tokens(prompt: object) -> bool:
    return isinstance(prompt, list) and all(isinstance(token, int) for token in prompt)


def nixl_prefill(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the prefill leg: one token, not streamed, the cache kept for another replica."""
    asked = {key: value for key, value in body.items() if key not in _NOT_OF_PREFILL}
    asked |= {"stream": False, "max_tokens": 1, "kv_transfer_params": dict(_ASK)}
    if "max_completion_tokens" in asked:
        asked["max_completion_tokens"] = 1
    return asked


def nixl_decode(body: Mapping[str, Any], answer: Answer) -> tuple[dict[str, Any], bool]:
    """The body of the decode leg, and whether it fetches a cache.

    It does not where the prefill replica kept none (it says null where the first token ended the
    answer) or refused the request: then the decode replica reads the prompt itself, or refuses it
    itself.

    Raises: UpstreamError for parameters that no decode replica could use.
    """
    if answer.status != 200:
        return dict(body), False
    try:
        told = orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        raise UpstreamError("garbage", "the prefill leg's answer is not JSON") from error
    params = told.get("kv_transfer_params") if isinstance(told, dict) else None
    if params is None:
        return dict(body), False
    if not _is_usable(params):
        raise UpstreamError("handshake", "the prefill leg's kv_transfer_params cannot be used")
    return {**body, "kv_transfer_params": params}, True


def _is_usable(params: object) -> bool:
    if not isinstance(params, dict) or params.get("do_remote_prefill") is not True:
        return False
    texts = all(
        isinstance(params.get(key), str) and params[key]
        for key in ("remote_engine_id", "remote_host")
    )
    port = params.get("remote_port")
    is_port = isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536
    return texts and is_port and isinstance(params.get("remote_block_ids"), list)


def with_bootstrap(body: Mapping[str, Any], prefill_url: str, port: int) -> dict[str, Any]:
    """The body of both legs: where the prefill replica's bootstrap server is, and a room."""
    host = urlsplit(prefill_url).hostname or ""
    return {
        **body,
        "bootstrap_host": f"[{host}]" if ":" in host else host,
        "bootstrap_port": port,
        "bootstrap_room": secrets.randbits(_ROOM_BITS),
    }
