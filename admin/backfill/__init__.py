"""`stepclock-server backfill`: what Kafka still holds, written into the store again."""
