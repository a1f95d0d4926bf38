"""Real Kafka, Kafka Connect and Elasticsearch on this machine, without containers: what `make kafka` runs."""
