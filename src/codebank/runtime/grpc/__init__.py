"""gRPC as any role speaks it: servers, channels, certificates."""
