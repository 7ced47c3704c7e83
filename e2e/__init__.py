"""Scenarios on a real control plane, and what they need. In the repository, not in the wheel."""
