"""Scripts that print ratios, each against a baseline of the same work in the same run."""
