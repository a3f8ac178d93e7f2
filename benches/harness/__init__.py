"""The driver of the benchmark suite; benches/run is its front door, benches/README.md its manual."""
