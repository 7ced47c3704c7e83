"""The planner: numbers in, plan out. It has never heard of Kubernetes."""
