"""The runtime compared with its peers: ``python -m benchmarks --help``; the method is in ``docs/benchmarks.md``."""
