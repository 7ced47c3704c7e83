"""What the API server counts of a pod and what it refuses, as pure functions of the pod's spec.

ResourceQuotas and LimitRanges, exactly as kube-apiserver's admission reads them, so that a plan never
asks for a pod that it would refuse.
"""
