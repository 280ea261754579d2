"""Kafka, InfluxDB and Redis as local processes without Docker, for tests, the demo, benchmarks."""
