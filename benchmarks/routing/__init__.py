"""A simulation of routing over many replicas; see docs/routing.md."""
