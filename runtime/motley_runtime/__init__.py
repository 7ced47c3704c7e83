"""What runs inside pods: gateway, rollout gate, training helpers, stores."""
