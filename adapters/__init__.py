"""Border files: the only places that import the clients of Kafka, InfluxDB and Redis."""
