"""Kafka and InfluxDB as local processes, without Docker: for tests, demo-real and benchmarks."""
