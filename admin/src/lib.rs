//! The operators' process: metrics of the whole suite, sessions, the audit listing, over a local socket and HTTP.
