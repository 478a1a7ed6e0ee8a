"""The Autobahn test suite's cases (RFC 6455, RFC 7692) against this project's connections."""
