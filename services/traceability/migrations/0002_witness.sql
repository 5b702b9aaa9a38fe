-- Checkpoints of all services as traceability witnessed them: `note` carries its cosignature, and those of other witnesses that
-- were there by then. The witness's own memory lies outside the database; these rows are for reading and for packs.
CREATE TABLE {schema}.witnessed_checkpoint (
    service     text        NOT NULL,
    epoch       integer     NOT NULL,
    size        bigint      NOT NULL,
    root        bytea       NOT NULL,
    note        text        NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (service, epoch, size)
);

-- The compact range over the ledger's leaves of each service, so that the next checkpoint costs only the new ones.
CREATE TABLE {schema}.witnessed_range (
    service text   PRIMARY KEY,
    size    bigint NOT NULL,
    hashes  bytea  NOT NULL
);
