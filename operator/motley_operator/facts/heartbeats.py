"""What a line of a watch says of a node besides that its kubelet lives, without reading the line.

A kubelet writes its node's status at least every five minutes; on thousands of nodes that is most of
what a watch brings, 15 KiB and more each time, and only three things in it differ from the line before: the
resourceVersion, the times of heartbeats, and when a manager last wrote its fields. A line
that is equal to the last one in all else says nothing new, whatever a plan reads of it.

What differs is searched for only where an API server writes it: the version among the first fields of
`metadata`, before anything that a person writes; managers' times between `managedFields` and
`status`; heartbeats inside of `conditions`. In any other line, and in one of another order, nothing is
left out: it is read as before. A quote inside of a JSON string has a backslash before it, so that no label or
annotation can look like one of these fields.
"""

from __future__ import annotations

from dataclasses import dataclass

_MODIFIED = b'{"type":"MODIFIED","object":{'
_UID, _VERSION = b'"uid":"', b'"resourceVersion":"'
_MANAGERS, _STATUS = b'"managedFields":[', b'"status":{'
_CONDITIONS = b'"conditions":['
_WRITTEN, _BEAT = b'"time":"', b'"lastHeartbeatTime":"'
_OPEN = 3  # braces before the version: of the line, of the object, of its metadata


@dataclass(frozen=True, slots=True)
class Gist:
    """A modified object's UID and version, and a hash of everything but what differs each time."""

    uid: str
    version: int
    rest: int


def node_gist(line: bytes) -> Gist | None:
    """The gist of a modified node; None of anything else, or where its fields are in another order."""
    if not line.startswith(_MODIFIED):
        return None
    at = line.find(_VERSION) + len(_VERSION)
    uid, end = _value(line, line.find(_UID, 0, at) + len(_UID)), line.find(b'"', at)
    if not uid or not line[at:end].isdigit() or line.count(b"{", 0, at) != _OPEN:
        return None
    kept, start = [line[:at]], end
    managers = line.find(_MANAGERS, end)
    status = line.find(_STATUS, max(managers, end))
    if 0 <= managers < status:
        start = _leave_out(_WRITTEN, line, (start, managers, status), kept)
    if 0 <= (conditions := line.find(_CONDITIONS, max(status, end))):
        start = _leave_out(_BEAT, line, (start, conditions, line.find(b"]", conditions)), kept)
    kept.append(line[start:])
    return Gist(uid.decode(), int(line[at:end]), hash(b"".join(kept)))


def _leave_out(name: bytes, line: bytes, places: tuple[int, int, int], kept: list[bytes]) -> int:
    """Keep the line from the first place on without values of the name between the other two.

    Returns: where what is not kept yet begins.
    """
    start, at, stop = places
    while (found := line.find(name, at, stop)) >= 0:
        value = found + len(name)
        kept.append(line[start:value])
        start = at = line.find(b'"', value)
    return start


def _value(line: bytes, at: int) -> bytes:
    """A string's bytes up to its end."""
    return line[at : line.find(b'"', at)]
