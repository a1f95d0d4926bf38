"""What Prometheus, Alertmanager and Grafana are given: each file read as they would read it, and each query asked."""
