"""How a cascade judges answers, what it watches, and what it may give up under load."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from motley_operator.api.common import ATOMIC, ApiModel, ObjectName, Opaque
from motley_operator.api.quantities import Duration, Percentage, Quantity
from motley_operator.api.rules import NAME_PATTERN, Rule, one_member, positive

Comparison = Literal["Text", "Number", "Choice"]
_COMPARED = (
    "How answers are compared: Text without case, blanks and outer marks after the last `Answer:`, "
    "the Number they end on, or the Choice (a letter)."
)
StageName = Annotated[str, Field(min_length=1, max_length=15, pattern=NAME_PATTERN)]
FileName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
Argument = Annotated[str, Field(max_length=1024)]


class Check(ApiModel):
    """One check of an answer: exactly one member, named by `type`."""

    rules = (
        one_member("check", {"Regex": "pattern", "JsonSchema": "schema", "Command": "command"}),
    )
    type: Literal["Regex", "JsonSchema", "Command"] = Field(description="Which member is set.")
    pattern: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="Regular expression (Python's) that is found in the answer."
    )
    json_schema: Opaque | None = Field(
        default=None,
        alias="schema",
        description="JSON Schema that the answer, or its last fenced block, fits.",
    )
    command: tuple[Argument, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="A program of `commands` and its arguments; status 0 with the answer on stdin passes.",
        json_schema_extra=ATOMIC,
    )
    time_limit: Duration = Field(
        default=Duration("10s"), description="Of a Command; at most 60s. Later it has failed."
    )


class LocalConfigMap(ApiModel):
    """A ConfigMap of the same namespace."""

    name: ObjectName = Field(description="Name of the ConfigMap.")


def _commands_are_there(document: Any) -> bool:
    uses = any(check.get("type") == "Command" for check in document.get("checks") or ())
    return not uses or "commands" in document


class ValidatorSpec(ApiModel):
    """Checks of every answer; the share that passes is the score."""

    rules = (
        Rule(
            "commands",
            "commands",
            "a check of type Command needs commands: name the ConfigMap that holds the program",
            "has(self.commands) || self.checks.all(c, c.type != 'Command')",
            _commands_are_there,
        ),
    )
    checks: tuple[Check, ...] = Field(
        min_length=1, max_length=16, description="What is checked.", json_schema_extra=ATOMIC
    )
    commands: LocalConfigMap | None = Field(
        default=None,
        description="Programs of Command checks, one a key; gateways mount it and can run them.",
    )


class SelfConsistencySpec(ApiModel):
    """Several samples of an answer; the share that says the same as most is the score."""

    samples: int = Field(ge=2, le=16, description="Answers asked for, in all.")
    temperature: Quantity = Field(
        default=Quantity("0.7"), description="Sampling temperature, above 0 and at most 2."
    )
    compare: Comparison = Field(default="Text", description=_COMPARED)


class SelfVerifySpec(ApiModel):
    """A stage is asked whether an answer is right; its chance of yes is the score."""

    stage: StageName | None = Field(
        default=None, description="Stage that is asked; absent: the one that answered."
    )


_MEMBERS = {
    "Validator": "validator",
    "SelfConsistency": "selfConsistency",
    "SelfVerify": "selfVerify",
}


def _members_fit(document: Any) -> bool:
    kind = document.get("type", "LogProb")
    alone = all(field not in document or kind == of for of, field in _MEMBERS.items())
    return alone and (kind != "Validator" or "validator" in document)


class Estimator(ApiModel):
    """How the gateway judges whether an answer is good enough to return."""

    rules = (
        Rule(
            "estimator member",
            "type",
            "estimator takes the member of its type only: `validator` with `type: Validator` "
            "(required), `selfConsistency` with `type: SelfConsistency`, `selfVerify` with "
            "`type: SelfVerify`",
            # An absent estimator defaults to {}, which the API server checks before its type.
            "has(self.validator) == (has(self.type) && self.type == 'Validator')"
            " && (!has(self.selfConsistency) || has(self.type) && self.type == 'SelfConsistency')"
            " && (!has(self.selfVerify) || has(self.type) && self.type == 'SelfVerify')",
            _members_fit,
        ),
    )
    type: Literal["LogProb", "Validator", "SelfConsistency", "SelfVerify", "Classifier"] = Field(
        default="LogProb",
        description="The kind of score; the calibration table must hold the same kind.",
    )
    validator: ValidatorSpec | None = Field(default=None, description="Checks without a model.")
    self_consistency: SelfConsistencySpec | None = Field(
        default=None, description="Agreement of several samples."
    )
    self_verify: SelfVerifySpec | None = Field(default=None, description="A verdict by a stage.")


class Shadow(ApiModel):
    """A second look at some answers of stages before the last, after they were sent."""

    share: Percentage = Field(
        description="Of the answers that stages before the last return; 2% is a good beginning."
    )
    label: Literal["LastStage", "Verdict", "Validator"] = Field(
        default="LastStage",
        description="What labels them: the last stage's own answer, its verdict on theirs, or the estimator's checks.",
    )
    compare: Comparison = Field(default="Text", description=_COMPARED)
    max_per_minute: int = Field(
        default=30, ge=1, le=6000, description="Labels a minute and gateway, at most."
    )


class Canaries(ApiModel):
    """Questions with known answers, asked of every stage."""

    per_hour: int = Field(ge=1, le=3600, description="Of each stage, an hour and gateway.")


class Watch(ApiModel):
    """What tells that a cascade is no longer what it was when it was calibrated."""

    shadow: Shadow | None = Field(default=None, description="Labels for some early answers.")
    canaries: Canaries | None = Field(default=None, description="Questions with known answers.")


class UnderLoad(ApiModel):
    """Lower thresholds while a later stage is busy, paid from quality above the floor."""

    rules = (positive("window", "window is longer than 0s: leave it out or write such as 10m"),)
    busy: Duration = Field(
        description="A stage is busy when its least busy replica has more work than this, at its planned capacity.",
    )
    window: Duration = Field(
        default=Duration("10m"), description="How long unspent quality above the floor is kept."
    )
