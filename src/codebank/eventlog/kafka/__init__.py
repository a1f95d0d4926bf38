"""The log on Apache Kafka, by the synchronous client, each client on a thread of its own."""
