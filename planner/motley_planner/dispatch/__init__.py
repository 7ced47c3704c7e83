"""Which replica a request goes to, and which policy it follows: pure, no clock, no sockets.

The simulator certifies a plan with this code and the gateway runs the same code, so what was
promised is what is done. Time and randomness are passed in.
"""

from motley_planner.dispatch.balancer import Dispatcher, DispatchOptions, Ticket
from motley_planner.dispatch.classify import classify
from motley_planner.dispatch.parsing import RoutingError, parse_routing
from motley_planner.dispatch.policies import PolicyMixer, accepts
from motley_planner.dispatch.routing import (
    ESTIMATORS,
    Policy,
    Replica,
    RequestClass,
    ResourceRef,
    RoutingTable,
    Stage,
    routing_document,
)

__all__ = [
    "ESTIMATORS",
    "DispatchOptions",
    "Dispatcher",
    "Policy",
    "PolicyMixer",
    "Replica",
    "RequestClass",
    "ResourceRef",
    "RoutingError",
    "RoutingTable",
    "Stage",
    "Ticket",
    "accepts",
    "classify",
    "parse_routing",
    "routing_document",
]
