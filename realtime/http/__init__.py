"""What is served over HTTP: event streams, publishing, figures, and its middleware."""
