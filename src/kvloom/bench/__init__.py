"""What can be measured of an engine: workloads, a machine's limits, and how to run one against the other."""
