-- State of the windows: rows that were acknowledged but are not yet in an event. It is no projection and is never rebuilt.

-- One row for each plan in each environment; its lock puts batches in order. Seconds since 1970; the watermark never goes back.
-- Windows that end by `closed_watermark` are in events.
CREATE TABLE {schema}.pane_clock (
    system           text    NOT NULL,
    plan             text    NOT NULL,
    environment      text    NOT NULL,
    watermark        bigint,
    closed_watermark bigint,
    late_rows        bigint  NOT NULL DEFAULT 0,
    PRIMARY KEY (system, plan, environment)
);

-- Absolute counts over the cells of one reference profile: int64, little-endian, all features one after the other.
CREATE TABLE {schema}.pane (
    system      text   NOT NULL,
    plan        text   NOT NULL,
    environment text   NOT NULL,
    start       bigint NOT NULL,
    profile     text   NOT NULL,
    rows        bigint NOT NULL,
    counts      bytea  NOT NULL,
    PRIMARY KEY (system, plan, environment, start)
);

-- Batches that were taken, so that a repeat counts nothing twice; kept until their rows would be late anyway.
CREATE TABLE {schema}.taken_batch (
    system      text   NOT NULL,
    plan        text   NOT NULL,
    environment text   NOT NULL,
    batch       text   NOT NULL,
    fingerprint text   NOT NULL,
    accepted    bigint NOT NULL,
    late        bigint NOT NULL,
    newest      bigint NOT NULL,
    PRIMARY KEY (system, plan, environment, batch)
);
CREATE INDEX taken_batch_by_age ON {schema}.taken_batch (system, plan, environment, newest);

-- Reference profiles by digest, with the names of category levels, which no event holds.
CREATE TABLE {schema}.reference_profile (
    digest  text  PRIMARY KEY,
    content bytea NOT NULL
);
