"""The Open Inference Protocol (KServe, Triton, MLServer) under /v2/."""
