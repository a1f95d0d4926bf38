"""Kubernetes: our manifests on the programs that read them."""
