"""The gRPC services, on an HTTP/2 server of the same event loop. Nothing of it is imported without `--grpc_port`."""
