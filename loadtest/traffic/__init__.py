"""What is sent and how: pictures, request bodies, connections, and the check of every answer."""
