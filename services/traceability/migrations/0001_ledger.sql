-- The ledger is a record, not a projection: what arrived from which service, in order of arrival. Append-only, never rebuilt.
CREATE TABLE {schema}.ledger (
    position         bigint      PRIMARY KEY,
    service          text        NOT NULL,
    service_position bigint      NOT NULL,
    leaf_hash        bytea       NOT NULL,
    stream           text        NOT NULL,
    version          integer     NOT NULL,
    name             text        NOT NULL,
    system           text,
    recorded_at      timestamptz NOT NULL,
    event            bytea       NOT NULL,
    UNIQUE (service, service_position)
);
CREATE INDEX ledger_by_system ON {schema}.ledger (system, position);
CREATE INDEX ledger_by_time ON {schema}.ledger (recorded_at);

CREATE TABLE {schema}.ledger_head (position bigint NOT NULL);
INSERT INTO {schema}.ledger_head VALUES (0);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {schema}.ledger
    FOR EACH ROW EXECUTE FUNCTION {schema}.refuse_change();
CREATE TRIGGER append_only_table BEFORE TRUNCATE ON {schema}.ledger
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_change();
