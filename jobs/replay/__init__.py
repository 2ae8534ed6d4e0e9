"""The whole loop over history, day by day, to score the policy and not only the model."""
