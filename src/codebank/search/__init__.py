"""The search index that Kafka Connect fills: how both are prepared, and what the proof reads of them."""
