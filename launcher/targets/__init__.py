"""Files for what else runs the service, of the same YAML: docker, systemd, Kubernetes, Ray."""
