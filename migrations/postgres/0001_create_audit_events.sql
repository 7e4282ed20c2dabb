-- Owner: auditor. The trail: one row a record, each chained to the one before, appended to and never changed.

CREATE TABLE audit_events (
    seq               BIGINT PRIMARY KEY CHECK (seq > 0),
    -- What is hashed is stored as it was hashed: ids and times keep the producer's own form.
    id                TEXT COLLATE "C" NOT NULL UNIQUE,
    ts_us             BIGINT NOT NULL,
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
    http_status       BIGINT,
    grpc_code         TEXT,
    latency_ms        BIGINT,
    ip_address        TEXT,
    user_agent        TEXT,
    request_id        TEXT,
    event_count       BIGINT NOT NULL,
    prev_hash         BYTEA NOT NULL CHECK (octet_length(prev_hash) = 32),
    hash              BYTEA NOT NULL CHECK (octet_length(hash) = 32)
);

CREATE FUNCTION audit_events_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION audit_events_refuse_change();
CREATE TRIGGER audit_events_keep_all BEFORE TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION audit_events_refuse_change();

-- Where the chain ends. A row that is missing behind it was taken away.
CREATE TABLE audit_head (
    one  BIGINT PRIMARY KEY CHECK (one = 1),
    seq  BIGINT NOT NULL,
    hash BYTEA NOT NULL CHECK (octet_length(hash) = 32)
);
INSERT INTO audit_head (one, seq, hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'));

-- The entry of the audit stream that was written last; in the transaction of its rows.
CREATE TABLE audit_position (
    stream   TEXT PRIMARY KEY,
    entry_id TEXT NOT NULL
);
