"""Speed and memory, each against a plain reference in the same process: ``python -m benchmarks.<name>``."""
