"""A real Kubernetes control plane on this machine: processes on free ports of 127.0.0.1."""
