"""What the server tells its operator: metrics, histograms and logs."""
