"""Files for what else runs the service: docker, compose, systemd, Kubernetes; of the same YAML."""
