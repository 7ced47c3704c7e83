"""Checks any plan against its table, without a solver.

`check(table, solution)` gives every complaint in words; an empty tuple means that the plan is one
the table allows and that its figures are what they say. It shares no code with the formulations.

What it cannot say without a certificate is that a bound holds: `optimal` is then the search's word.
`examine(table, solution)` gives with the complaints, for each level, the bound that is claimed, the one
that certificates prove by addition (`certified_bound`), and `bound_proof`: "proved by a certificate" or "not
proved by a certificate". The second is no complaint, since a bound from branching has no certificate.
"""

from motley_planner.checker.front import Bound, Verdict, check, examine

__all__ = ["Bound", "Verdict", "check", "examine"]
