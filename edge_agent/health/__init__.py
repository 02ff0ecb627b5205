"""The health endpoint: JSON, Prometheus text and the service notifications."""
