"""Off-policy evaluation: what a policy would have earned, from another one's log, with an interval or a refusal."""
