"""Settings from the environment, policy.yaml and the contracts: each one strict model."""
