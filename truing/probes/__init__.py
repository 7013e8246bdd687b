"""What is measured of an arm: one file a probe, each pure, each with its interval and its n."""
