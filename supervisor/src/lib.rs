//! Owns the listening sockets and the child processes: starts, watches, replaces and drains them.
