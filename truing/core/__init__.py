"""Types only: what a policy, evidence, a method, a measure and a recipe are."""
