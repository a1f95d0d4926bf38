"""What Elasticsearch and Kibana are given: each file read as they would read it."""
