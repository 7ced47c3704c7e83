"""Which answers of the API server say that it will not have a pod, however often it is asked.

    422                     the pod is invalid
    400                     it cannot even be read; or a webhook that gives no code denies it
    403                     a rule denies it: Pod Security, a LimitRange, a policy, a webhook, a right
    403 "exceeded quota"    the last thing asked: all else admits it, and room comes when pods go

All others (429, 5xx, a webhook that cannot be reached, no answer) say nothing of the pod.
Source: k8s.io/apiserver, pkg/admission/plugin/webhook/errors and pkg/admission/plugin/resourcequota.
"""

from __future__ import annotations

from motley_operator.connection import ApiError
from motley_operator.domain.verdicts import Refusal

_INVALID, _FORBIDDEN = (400, 413, 422), 403
_DENIED = "denied the request"  # of webhooks and policies, with whatever code
_NO_DRY_RUN = "does not support dry run"


def refusal_of(error: ApiError) -> Refusal | None:
    """Why the server will not have a pod; None where it said nothing of the pod."""
    if error.status == _FORBIDDEN and "exceeded quota:" in error.message:
        return Refusal.OVER_QUOTA
    if error.status == _FORBIDDEN or (400 <= error.status < 500 and _DENIED in error.message):
        return Refusal.FORBIDDEN
    return Refusal.INVALID if error.status in _INVALID else None


def cannot_be_tried(error: ApiError) -> bool:
    """Whether the answer says nothing against a pod that was tried under its name.

    It has another of that name, which is looked at last; or a webhook with side effects is not asked
    in dry runs, and then nobody knows before the pod is made.
    """
    exists = error.status == 409 and error.reason == "AlreadyExists"
    return exists or (error.status == 400 and _NO_DRY_RUN in error.message)
