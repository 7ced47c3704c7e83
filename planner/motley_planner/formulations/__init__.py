"""Fleet tables as MILPs, and points of those MILPs as plans."""
