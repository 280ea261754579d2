"""What Grafana is given: data sources, alert rules and dashboards, these made by `builders`."""
