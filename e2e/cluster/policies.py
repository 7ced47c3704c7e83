"""NetworkPolicies enforced on a real node: who may open a connection to a pod, as rules of iptables.

    python -m e2e.cluster.policies --state DIR

It stands for that half of a network plugin, as `names` stands for CoreDNS: the bridge plugin enforces
nothing. Known is what Motley's policies are made of: ingress by pods, namespaces, ports and port
names. Of a policy that says more it ends with an error, so that nothing is taken for enforced that
is not. What the node itself sends (probes of the kubelet) is never refused: it is not forwarded.
Sources: networking.k8s.io/v1 NetworkPolicy; iptables-extensions(8), conntrack.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from e2e.cluster import state
from e2e.cluster.client import Client

Document = Mapping[str, Any]

# Before the filter's FORWARD, in which kube-proxy accepts what it has translated.
TABLE, HOOK = "mangle", "FORWARD"
CHAIN = "KUBE-POLICY"  # `down` takes away what is named KUBE-
LOOK_S = 0.25
BRIDGED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_KINDS = {
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
    "policies": "/apis/networking.k8s.io/v1/networkpolicies",
}


class Unknown(Exception):
    """A policy says something that is not enforced here."""


def missing() -> str:
    """Why no policy can be enforced on this machine, in one sentence; "" where it can."""
    if BRIDGED.exists() and BRIDGED.read_text().strip() == "1":
        return ""
    return f"what a bridge forwards goes past iptables here: {BRIDGED} is not 1"


def rules(
    pods: Sequence[Document], namespaces: Sequence[Document], policies: Sequence[Document]
) -> str:
    """What `iptables-restore` gets: a chain that returns what is allowed, and one for each closed pod.

    A pod is closed once a policy selects it; then it is reached by whom any of them admits.
    Raises: Unknown.
    """
    running = [pod for pod in pods if _is_on_network(pod)]
    labels = {one["metadata"]["name"]: _labels(one) for one in namespaces}
    chains, jumps, inside = [f":{CHAIN} - [0:0]"], [], []
    jumps.append(f"-A {CHAIN} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN")
    for pod in sorted(running, key=_address):
        closing = [one for one in policies if _selects(one, pod)]
        if not closing:
            continue
        name = _chain(pod)
        chains.append(f":{name} - [0:0]")
        jumps.append(f"-A {CHAIN} -d {_address(pod)}/32 -j {name}")
        admitted = {rule for one in closing for rule in _admitted(one, pod, running, labels)}
        inside += [f"-A {name} {rule}-j RETURN" for rule in sorted(admitted)]
        inside.append(f"-A {name} -j DROP")
    return "\n".join([f"*{TABLE}", *chains, *jumps, *inside, "COMMIT", ""])


def _is_on_network(pod: Document) -> bool:
    is_over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not is_over and not pod["spec"].get("hostNetwork") and bool(_address(pod))


def _address(pod: Document) -> str:
    return str(pod.get("status", {}).get("podIP") or "")


def _labels(thing: Document) -> Mapping[str, str]:
    found: Mapping[str, str] = thing["metadata"].get("labels") or {}
    return found


def _chain(pod: Document) -> str:
    """A chain's name has 28 characters at most."""
    return f"{CHAIN}-{hashlib.sha256(pod['metadata']['uid'].encode()).hexdigest()[:12]}"


def matches(selector: Document, labels: Mapping[str, str]) -> bool:
    """A label selector; an empty one matches everything.

    Raises: Unknown.
    """
    equal = all(labels.get(key) == one for key, one in selector.get("matchLabels", {}).items())
    return equal and all(_holds(one, labels) for one in selector.get("matchExpressions", ()))


def _holds(rule: Document, labels: Mapping[str, str]) -> bool:
    key, operator, values = rule["key"], rule["operator"], rule.get("values") or ()
    if operator in ("In", "NotIn"):
        return (labels.get(key) in values) == (operator == "In")
    if operator in ("Exists", "DoesNotExist"):
        return (key in labels) == (operator == "Exists")
    raise Unknown(f"operator {operator}")


def _selects(policy: Document, pod: Document) -> bool:
    metadata, spec = policy["metadata"], policy["spec"]
    if spec.get("policyTypes", ["Ingress"]) != ["Ingress"]:
        raise Unknown(f"{metadata['name']}: policyTypes {spec['policyTypes']}")
    is_near = metadata["namespace"] == pod["metadata"]["namespace"]
    return is_near and matches(spec.get("podSelector") or {}, _labels(pod))


def _admitted(
    policy: Document,
    target: Document,
    pods: Sequence[Document],
    namespaces: Mapping[str, Mapping[str, str]],
) -> Iterator[str]:
    """Matches of iptables, each followed by a space, that a policy lets through to a pod."""
    home = policy["metadata"]["namespace"]
    for rule in policy["spec"].get("ingress") or ():
        ports = list(_ports(rule, target))
        for source in _sources(rule, home, pods, namespaces):
            yield from (source + port for port in ports)


def _ports(rule: Document, target: Document) -> Iterator[str]:
    if not rule.get("ports"):
        yield ""
    for one in rule.get("ports") or ():
        if "endPort" in one:
            raise Unknown("endPort")
        protocol = one.get("protocol", "TCP").lower()
        wanted = one.get("port")
        if wanted is None:
            yield f"-p {protocol} "
        for number in [wanted] if isinstance(wanted, int) else _named(target, wanted):
            yield f"-p {protocol} --dport {number} "


def _named(target: Document, name: str | None) -> Iterator[int]:
    for container in target["spec"]["containers"]:
        for one in container.get("ports") or ():
            if name is not None and one.get("name") == name:
                yield one["containerPort"]


def _sources(
    rule: Document,
    home: str,
    pods: Sequence[Document],
    namespaces: Mapping[str, Mapping[str, str]],
) -> Iterator[str]:
    if not rule.get("from"):
        yield ""
    for peer in rule.get("from") or ():
        if "ipBlock" in peer:
            raise Unknown("ipBlock")
        for pod in pods:
            where = pod["metadata"]["namespace"]
            if "namespaceSelector" in peer:
                is_there = matches(peer["namespaceSelector"], namespaces.get(where, {}))
            else:
                is_there = where == home
            if is_there and matches(peer.get("podSelector") or {}, _labels(pod)):
                yield f"-s {_address(pod)}/32 "


def apply(text: str, gone: Sequence[str]) -> None:
    """Puts the rules in the place of those before, and takes away chains that no pod has any more.

    Raises: CalledProcessError.
    """
    ended = [f"-{how} {name}" for how in "FX" for name in gone]
    whole = text.replace("COMMIT\n", "".join(f"{line}\n" for line in ended) + "COMMIT\n")
    argv = ["iptables-restore", "-w", "--noflush"]
    subprocess.run(argv, input=whole, text=True, check=True)
    jump = ["-t", TABLE, "{}", HOOK, "-j", CHAIN]
    check = ["iptables", "-w", *(part.format("-C") for part in jump)]
    if subprocess.run(check, capture_output=True, check=False).returncode != 0:
        subprocess.run(["iptables", "-w", *(part.format("-I") for part in jump)], check=True)


def chains_of(text: str) -> set[str]:
    """The pods' chains that the rules make."""
    found = {line[1:].split()[0] for line in text.splitlines() if line.startswith(":")}
    return found - {CHAIN}


def _look(client: Client) -> str:
    found = {}
    for name, path in _KINDS.items():
        status, text = client.request("GET", path)
        if status != 200:
            raise OSError(f"{path}: {status}")
        found[name] = json.loads(text)["items"]
    return rules(found["pods"], found["namespaces"], found["policies"])


def main(argv: list[str] | None = None) -> int:
    """Enforces until it is killed, or until a policy says what is not known here."""
    parser = argparse.ArgumentParser(prog="policies", description=__doc__.partition("\n")[0])
    parser.add_argument("--state", type=Path, required=True)
    options = parser.parse_args(argv)
    before = ""
    client: Client | None = None
    while True:
        try:
            if client is None:
                found = state.load(options.state)
                assert found is not None
                client = Client(options.state, found.ports["kube-apiserver"])
            text = _look(client)
        except (OSError, http.client.HTTPException) as error:
            print(f"policies: {error}", file=sys.stderr, flush=True)
            client = None
        else:
            if text != before:
                apply(text, sorted(chains_of(before) - chains_of(text)))
                before = text
        time.sleep(LOOK_S)


if __name__ == "__main__":
    sys.exit(main())
