"""HTTP around the routes: connections, the fast lane, request heads, middleware, the request log, authentication."""
