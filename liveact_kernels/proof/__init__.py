"""Whether a backend is right: `parity` at any size against float64, `selftest` once at the start."""
