"""The operator: the only code that talks to a cluster."""
