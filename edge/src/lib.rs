//! The public door: signed gRPC commands, event streams relayed to pushers, HTTP routes.
