"""What Prometheus reads of the service and of sweeps."""
