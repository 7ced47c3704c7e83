"""`motley plan`: resources and nodes in, a plan out; nothing on any cluster is changed."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from motley_operator.cli.output import InputError, emit, say
from motley_operator.cli.texts import read_text
from motley_operator.domain.patience import falls_short, may_serve_more, price_gap
from motley_planner.strategies.listing import STRATEGIES

if TYPE_CHECKING:
    from motley_operator.cli.main import Subparsers
    from motley_operator.cli.plan_file import PlanFile
    from motley_operator.domain.facts import ClusterFacts
    from motley_planner.domain.demand import RunningUnit
    from motley_planner.domain.hardware import Catalog

DESCRIPTION = """\
Plans custom resources on the nodes that `kubectl get nodes -o yaml` printed, or on a live
cluster (--context), and prints the plan. Nothing is changed anywhere.

  kubectl get nodes -o yaml > nodes.yaml
  motley plan -f examples/ --nodes nodes.yaml
"""
# With imports and 200 nodes to read this stays near two seconds of CPU time.
DEFAULT_TIME_LIMIT_S = 0.8
DEAR_GAP = 0.05  # of the price
CERTIFY_S = 10.0
PATIENT_TIME_LIMIT_S = 5.0  # of a second try, where the first fell short
_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "m": 60.0}


@dataclass(frozen=True, slots=True)
class How:
    """How to plan: within what time, by which strategy, and in what KV caches may travel.

    With `kv_scales` prefill and decode may run apart, KV caches travelling at one of these scales.
    """

    time_limit_s: float | None = None
    strategy: str = "exact"
    kv_scales: tuple[float, ...] = ()
    certify_s: float | None = 0.0  # None: proofs of bounds where they cost little
    route_by_class: bool = False
    catalog: Catalog | None = None  # None: the one that ships with Motley


def add_parser(subparsers: Subparsers) -> None:
    """Declares the verb."""
    parser = subparsers.add_parser(
        "plan",
        help="plan resources on nodes from files, or on a live cluster, changing nothing",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-f",
        "--file",
        dest="files",
        action="append",
        nargs="+",
        metavar="FILE|DIR",
        help="resources, and the ConfigMaps they read; of a folder every YAML file",
    )
    parser.add_argument(
        "--nodes", metavar="NODES.yaml", help="what `kubectl get nodes -o yaml` printed"
    )
    parser.add_argument(
        "--pods",
        metavar="PODS.yaml",
        help="what `kubectl get pods -A -o yaml` printed (default: none)",
    )
    parser.add_argument(
        "--previous", metavar="PLAN.json", help="the plan that runs now: changing it has a price"
    )
    parser.add_argument(
        "--profile",
        metavar="TABLE.csv",
        help="measured TTFT and TPOT of your own replicas; goes before the cost model",
    )
    parser.add_argument(
        "--corrections",
        metavar="FLEET.yaml",
        help="learned step times over modeled ones: `kubectl get fleet default -o yaml`, or a list "
        "`corrections`; planned with whatever the Fleet's prometheus.learn says",
    )
    parser.add_argument(
        "--time-limit",
        type=seconds,
        metavar="10s",
        help="of the solve (default: 800ms, and 5s more where that serves or promises less than was "
        "asked, or at a price that may be far from the best)",
    )
    parser.add_argument(
        "--strategy",
        choices=[strategy.name for strategy in STRATEGIES],
        metavar="NAME",
        default="exact",
        help="see `motley strategies`",
    )
    parser.add_argument(
        "--allow-disaggregation",
        action="store_true",
        help="plan prefill and decode on replicas of their own where disaggregation is Auto, too",
    )
    parser.add_argument(
        "--allow-kv-compression",
        action="store_true",
        help="with the former: KV caches may travel in 4 bits; the plan says what is known of that",
    )
    parser.add_argument(
        "--certificate",
        action="store_true",
        help="prices of limits that prove each level's bound without a solver, whatever they take;"
        " without it only in files and where they take little",
    )
    parser.add_argument(
        "--route-by-class",
        action="store_true",
        help="a cascade may send each class its own way (clients must then declare their class)",
    )
    parser.add_argument(
        "--context", metavar="CTX", help="plan a live cluster: a kubeconfig's context"
    )
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, ~/.kube/config")


def seconds(text: str) -> float:
    """The seconds that "10s", "500ms", "2m" or a bare number say."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|)", text.strip())
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: write a time above zero, such as 10s or 500ms")
    return value


def run(args: argparse.Namespace) -> int:
    """Plans and prints; 1 if the plan falls short, 2 if a resource makes no sense, 3 without a plan."""
    facts = _facts(args)
    from motley_planner.costs.transfer import KV_SCALES

    running = _running(args.previous) if args.previous else None
    if not args.context and not args.pods and running is None:
        say(args, "motley: no --pods: GPUs that other pods hold count as free")
    if args.allow_kv_compression and not args.allow_disaggregation:
        raise InputError("motley plan", "--allow-kv-compression needs --allow-disaggregation")
    scales = KV_SCALES if args.allow_kv_compression else KV_SCALES[:1]
    kv_scales = scales if args.allow_disaggregation else ()
    limit_s = args.time_limit or DEFAULT_TIME_LIMIT_S
    how = How(
        limit_s,
        args.strategy,
        kv_scales,
        certify_s=CERTIFY_S if args.certificate else None,
        route_by_class=args.route_by_class,
        catalog=_catalog(args.profile, args.corrections),
    )
    content = plan_facts(facts, running, how)
    if args.time_limit is None and _wants_time(content):
        say(args, f"motley: trying for {PATIENT_TIME_LIMIT_S:g} s more")
        content = plan_facts(facts, running, replace(how, time_limit_s=PATIENT_TIME_LIMIT_S))
    from motley_operator.cli import plan_file, plan_table

    shown = content if args.certificate else plan_file.without_proofs(content)
    emit(args, plan_file.to_document(content), lambda: plan_table.render(shown))
    for entry in content.rejected:
        for refusal in entry.refusals:
            say(args, f"motley: {entry.key}: {refusal.field}: {refusal.message}; {refusal.lift}")
    return exit_status(content)


def _wants_time(content: PlanFile) -> bool:
    """Whether a longer search may serve or promise more, or cost clearly less."""
    made = content.plan
    if may_serve_more(made):
        return True
    from motley_planner.planning.losses import SMALL_FLEET

    promise = made.nodes <= SMALL_FLEET and any(part.unpromised for part in made.slices)
    return promise or price_gap(made) > DEAR_GAP


def _facts(args: argparse.Namespace) -> ClusterFacts:
    from motley_operator.cli.documents import Sources, facts_of, found_in, read_files

    objects = read_files(name for names in args.files or () for name in names)
    if args.context:
        from motley_operator.cli.live import add_live

        return facts_of(add_live(objects, args.context, args.kubeconfig))
    if not args.files or not args.nodes:
        raise InputError("motley plan", "give -f FILE and --nodes NODES.yaml, or --context CTX")
    nodes = read_files([args.nodes])
    facts = facts_of(Sources(objects, nodes, read_files([args.pods]) if args.pods else ()))
    if not facts.resources:
        raise InputError(found_in(objects), "holds no ModelCascade, ServingPool or RLJob")
    return facts


def _catalog(profile: str | None, corrections: str | None) -> Catalog:
    """The catalog that ships with Motley, with what a user measured of every resource."""
    from motley_planner.catalog import load_catalog
    from motley_planner.profiles import ProfileError, read_profile

    catalog = load_catalog()
    if corrections is not None:
        from motley_operator.cli.corrections import read_corrections

        catalog = replace(catalog, learned=read_corrections(corrections, catalog))
    if profile is None:
        return catalog
    text = read_text(profile)
    try:
        return replace(catalog, profiles={"": read_profile(text, catalog)})
    except ProfileError as error:
        raise InputError(profile, str(error)) from error


def _running(path: str) -> tuple[RunningUnit, ...]:
    """The replicas of an earlier plan as if they ran now."""
    from motley_operator.cli.plan_file import read_plan
    from motley_planner.planning.units import running_units

    return running_units(read_plan(path).plan)


def exit_status(content: PlanFile) -> int:
    """The command's exit status for a plan."""
    if content.rejected:
        return 2
    if content.plan.status == "no_solution":
        return 3
    return int(any(falls_short(part) for part in content.plan.slices))


def plan_facts(
    facts: ClusterFacts,
    running: tuple[RunningUnit, ...] | None = None,
    how: How = How(),
) -> PlanFile:
    """The plan of a cluster's facts; `running` replaces the units read from its pods.

    Raises: PlannerError (a strategy may not apply to these resources), SpecError.
    """
    from motley_operator.cli.plan_file import Problem, plan_file
    from motley_operator.settings import Settings
    from motley_operator.translate import translate, with_claims
    from motley_planner.catalog import load_catalog
    from motley_planner.planning import plan

    catalog = how.catalog or load_catalog()
    translation = translate(with_claims(facts), catalog, Settings(pairs_phases=bool(how.kv_scales)))
    # What waits for approval on a cluster is what a person wants to see here.
    waits = {key for key, standing in translation.standing.items() if standing.mode == "Preview"}
    snapshot = replace(translation.snapshot, frozen=translation.snapshot.frozen - waits)
    if running is not None:
        there = {node.name for node in snapshot.nodes}
        asked = {one.key for one in snapshot.services} | {one.key for one in snapshot.jobs}
        left = (u for u in running if u.key in asked and there.issuperset(u.nodes))
        snapshot = replace(snapshot, running=tuple(left))
    if how.time_limit_s is not None:
        snapshot = replace(snapshot, time_limit_s=how.time_limit_s)
    if how.kv_scales:
        snapshot = replace(snapshot, gateway_can_disaggregate=True, kv_scales=how.kv_scales)
    snapshot = replace(snapshot, route_by_class=how.route_by_class)
    # Another process for the solver costs a quarter of a second; nobody waits for this one but a person.
    made = plan(
        snapshot,
        translation.catalog,
        use_worker=False,
        strategy=how.strategy,
        certify_s=how.certify_s,
    )
    rejected = dict(translation.rejected)
    if translation.unmet:
        rejected["Fleet/default"] = translation.unmet
    added = tuple(
        gpu for name, gpu in translation.catalog.gpus.items() if catalog.gpus.get(name) != gpu
    )
    problem = Problem(snapshot, added, tuple(translation.catalog.learned.values()))
    return plan_file(made, problem, rejected, translation.unknown_gpus)
