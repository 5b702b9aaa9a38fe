-- What a time stamp authority (RFC 3161) answered over the text of a witnessed checkpoint. Only with PROOFTRAIL_TIMESTAMP_URL.
CREATE TABLE {schema}.checkpoint_timestamp (
    service    text        NOT NULL,
    epoch      integer     NOT NULL,
    size       bigint      NOT NULL,
    response   bytea       NOT NULL,
    stamped_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (service, epoch, size),
    FOREIGN KEY (service, epoch, size) REFERENCES {schema}.witnessed_checkpoint
);
