"""The log on Kafka: what implements `schemas.log`, and the cluster's administration."""
