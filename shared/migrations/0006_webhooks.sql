-- Where subscribers want the service's events sent to. `version` counts what its owner changed: what is delivered under an older
-- one moves nothing. `position` is that of the last event the receiver took. Off since its owner was told why in `trouble`.
CREATE TABLE {schema}.webhook (
    subject       text        NOT NULL,
    key           text        NOT NULL,
    kind          text        NOT NULL,
    issuer        text        NOT NULL,
    url           text        NOT NULL,
    systems       text[]      NOT NULL,
    names         text[]      NOT NULL,
    position      bigint      NOT NULL CHECK (position >= 0),
    version       bigint      NOT NULL DEFAULT 1,
    active        boolean     NOT NULL DEFAULT true,
    failures      integer     NOT NULL DEFAULT 0,
    failing_since timestamptz,
    next_try_at   timestamptz,
    trouble       text,
    status        integer,
    delivered_at  timestamptz,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subject, key)
);

-- The newest signs, and so do those before it until they expire. Only the service itself may read them.
CREATE TABLE {schema}.webhook_secret (
    subject    text        NOT NULL,
    key        text        NOT NULL,
    number     integer     NOT NULL,
    secret     bytea       NOT NULL,
    expires_at timestamptz NOT NULL DEFAULT 'infinity',
    PRIMARY KEY (subject, key, number),
    FOREIGN KEY (subject, key) REFERENCES {schema}.webhook ON DELETE CASCADE
);
