"""Which replica a request goes to, and which policy it follows: pure, no clock, no sockets.

The simulator certifies a plan with this code and the gateway runs the same code, so what was
promised is what is done. Time and randomness are passed in.
"""

from motley_planner.dispatch.affinity import Affinity, RecentPrefixes
from motley_planner.dispatch.balancer import Dispatcher, DispatchOptions
from motley_planner.dispatch.branch_rules import branch_document, parse_branches, unknown_field
from motley_planner.dispatch.branching import (
    BranchBook,
    BranchRule,
    Confidence,
    Extraction,
    Pruning,
    Reward,
    best_of,
    winner_of,
)
from motley_planner.dispatch.classify import classify
from motley_planner.dispatch.estimators import (
    LOGPROB_FEATURES,
    Calibrator,
    EstimatorError,
    calibrator_document,
    parse_calibrator,
)
from motley_planner.dispatch.fields import RoutingError
from motley_planner.dispatch.lanes import Ticket
from motley_planner.dispatch.parsing import parse_routing
from motley_planner.dispatch.policies import PolicyMixer, accepts
from motley_planner.dispatch.policy import Policy
from motley_planner.dispatch.routing import (
    DISPATCH_POLICIES,
    HANDOFFS,
    DispatchRule,
    Flow,
    Handoff,
    Hold,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
    WorkflowRule,
    routing_document,
)
from motley_planner.dispatch.rules import (
    COMPARISONS,
    ESTIMATORS,
    EstimatorRule,
    estimator_document,
    parse_estimator,
)
from motley_planner.dispatch.watching import (
    LABELS,
    Reference,
    ReliefRule,
    ShadowRule,
    WatchRule,
)
from motley_planner.dispatch.ways import Way, hop_name, only, ways_of

__all__ = [
    "COMPARISONS",
    "DISPATCH_POLICIES",
    "ESTIMATORS",
    "HANDOFFS",
    "LABELS",
    "LOGPROB_FEATURES",
    "Affinity",
    "BranchBook",
    "BranchRule",
    "Calibrator",
    "Confidence",
    "DispatchOptions",
    "DispatchRule",
    "Dispatcher",
    "EstimatorError",
    "EstimatorRule",
    "Extraction",
    "Flow",
    "Handoff",
    "Hold",
    "Policy",
    "PolicyMixer",
    "Pruning",
    "RecentPrefixes",
    "Reference",
    "ReliefRule",
    "Replica",
    "RequestClass",
    "ResourceRef",
    "Reward",
    "RoutingError",
    "RoutingTable",
    "ShadowRule",
    "Stage",
    "Ticket",
    "WatchRule",
    "Way",
    "WorkflowRule",
    "accepts",
    "best_of",
    "branch_document",
    "calibrator_document",
    "classify",
    "estimator_document",
    "hop_name",
    "only",
    "parse_branches",
    "parse_calibrator",
    "parse_estimator",
    "parse_routing",
    "routing_document",
    "unknown_field",
    "ways_of",
    "winner_of",
]
