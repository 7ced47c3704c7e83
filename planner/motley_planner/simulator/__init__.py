"""Discrete-event simulation of a plan, on the very dispatcher that the gateway runs."""

from motley_planner.simulator.arrivals import Arrivals, Kind, drawn, like_trace
from motley_planner.simulator.deploy import deployment_of, kinds_of, outcomes_of, stages_of
from motley_planner.simulator.outcomes import Outcomes, TableOutcomes, VisitOutcomes
from motley_planner.simulator.picture import picture_of
from motley_planner.simulator.report import Report, Terms, report_of, samples_of
from motley_planner.simulator.scenario import Change, Deployment, Route, Scenario, ServerSpec
from motley_planner.simulator.steps import CostedSteps, FixedSteps, StepTimes
from motley_planner.simulator.traces import read_trace
from motley_planner.simulator.world import Run, simulate

__all__ = [
    "Arrivals",
    "Change",
    "CostedSteps",
    "Deployment",
    "FixedSteps",
    "Kind",
    "Outcomes",
    "Report",
    "Route",
    "Run",
    "Scenario",
    "ServerSpec",
    "StepTimes",
    "TableOutcomes",
    "Terms",
    "VisitOutcomes",
    "deployment_of",
    "drawn",
    "kinds_of",
    "like_trace",
    "outcomes_of",
    "picture_of",
    "read_trace",
    "report_of",
    "samples_of",
    "simulate",
    "stages_of",
]
