"""Authorization: whether a caller may reach a target.  Pure; nothing else decides this."""

from uproxy.policy.parties import DIRECT, Caller, IpAddress, Target, plain
from uproxy.policy.rules import OTHER_WAY, Decision, Policy, ShadowMatch

__all__ = [
    "DIRECT", "OTHER_WAY", "Caller", "Decision", "IpAddress", "Policy", "ShadowMatch", "Target",
    "plain",
]  # fmt: skip
