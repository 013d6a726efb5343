"""What lies on disk: signatures, labels, the original graph, and sample rows that a signature takes."""
