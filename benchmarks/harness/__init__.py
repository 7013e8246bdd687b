"""What the benchmarks share: environments, processes, machines, pairs, tables, records."""
