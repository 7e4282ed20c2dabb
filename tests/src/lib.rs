//! The real suite with real children, real Redis, real PostgreSQL.
