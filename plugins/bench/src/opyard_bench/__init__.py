"""The benchmarks of opyard: every kernel of every op on every device, each compared with the reference first."""
