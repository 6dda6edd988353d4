"""What watches a Tillstream server: rules for Prometheus, and dashboards for Grafana with what makes them."""
