"""What ships for operators in docs/monitoring: Prometheus' configuration and rules, and the board."""
