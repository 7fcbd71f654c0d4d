"""What a deployment would do with a trace, without running its model."""
