"""The OpenAI-compatible front of a pool or a cascade; start it with `motley gateway`."""
