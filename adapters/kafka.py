"""The log on Kafka: what implements `schemas.log`, and the cluster's administration."""

from __future__ import annotations

from adapters.kafka_admin import KafkaAdmin, TopicDescription, TopicSpec
from adapters.kafka_connection import KafkaConnection
from adapters.kafka_progress import KafkaProgress
from adapters.kafka_publisher import KafkaPublisher
from adapters.kafka_range import KafkaRange
from adapters.kafka_reader import KafkaReader
from adapters.kafka_source import KafkaSource

__all__ = [
    "KafkaAdmin",
    "KafkaConnection",
    "KafkaProgress",
    "KafkaPublisher",
    "KafkaRange",
    "KafkaReader",
    "KafkaSource",
    "TopicDescription",
    "TopicSpec",
]
