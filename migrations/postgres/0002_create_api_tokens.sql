-- Owner: admin. Who may use the operator API: a token is known by its hash alone.

CREATE TABLE api_tokens (
    id            TEXT PRIMARY KEY,
    name          TEXT NOT NULL UNIQUE,
    sha256        BYTEA NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    created_at_ms BIGINT NOT NULL
);
