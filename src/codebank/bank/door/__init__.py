"""The bank's door: reads requests, writes answers, over gRPC. Decides nothing."""
