"""Everything on real Kafka, Kafka Connect and Elasticsearch: `make test-kafka`."""
