-- Owner: auditor. The trail: one row a record, each chained to the one before, appended to and never changed.

CREATE TABLE audit_events (
    seq               INTEGER PRIMARY KEY CHECK (seq > 0),
    -- What is hashed is stored as it was hashed: ids and times keep the producer's own form.
    id                TEXT NOT NULL UNIQUE,
    ts_us             INTEGER NOT NULL,
    user_id           TEXT,
    user_email        TEXT,
    device_session_id TEXT,
    api_token_id      TEXT,
    action_type       TEXT NOT NULL,
    action            TEXT NOT NULL,
    resource          TEXT,
    resource_type     TEXT,
    status            TEXT NOT NULL,
    rbac_decision     TEXT,
    http_status       INTEGER,
    grpc_code         TEXT,
    latency_ms        INTEGER,
    ip_address        TEXT,
    user_agent        TEXT,
    request_id        TEXT,
    event_count       INTEGER NOT NULL,
    prev_hash         BLOB NOT NULL CHECK (length(prev_hash) = 32),
    hash              BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TRIGGER audit_events_refuse_update BEFORE UPDATE ON audit_events
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is append-only: UPDATE refused');
END;
CREATE TRIGGER audit_events_refuse_delete BEFORE DELETE ON audit_events
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is append-only: DELETE refused');
END;

-- Where the chain ends. A row that is missing behind it was taken away.
CREATE TABLE audit_head (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    seq  INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
INSERT INTO audit_head (one, seq, hash) VALUES (1, 0, zeroblob(32));

-- The entry of the audit stream that was written last; in the transaction of its rows.
CREATE TABLE audit_position (
    stream   TEXT PRIMARY KEY,
    entry_id TEXT NOT NULL
) STRICT;
