"""What clients may send: a folder for each dialect, and the routes of operators and monitoring."""
