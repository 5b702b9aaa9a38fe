-- Own records. Times that the rules compare are text in ISO 8601, UTC, as the events have them.

CREATE TABLE model_version (
    system    text    NOT NULL,
    model     text    NOT NULL,
    version   text    NOT NULL,
    digest    text    NOT NULL,
    parent    text,
    withdrawn boolean NOT NULL,
    PRIMARY KEY (system, model, version)
);
CREATE INDEX model_version_by_digest ON model_version (system, digest);

CREATE TABLE change_plan (
    system text NOT NULL,
    key    text NOT NULL,
    status text NOT NULL,
    title  text NOT NULL,
    model  text NOT NULL,
    PRIMARY KEY (system, key)
);
CREATE INDEX change_plan_by_status ON change_plan (status, system);

-- change_end is how it was decided: verified or rejected.
CREATE TABLE change_request (
    system         text   NOT NULL,
    key            text   NOT NULL,
    status         text   NOT NULL,
    cause          text   NOT NULL,
    signal         text,
    classification text,
    model          text,
    baseline       text,
    candidate      text,
    change_end     text,
    position       bigint NOT NULL,
    PRIMARY KEY (system, key)
);
CREATE INDEX change_request_by_candidate ON change_request (system, candidate);
CREATE INDEX change_request_by_status ON change_request (status, system);

CREATE TABLE release (
    system         text    NOT NULL,
    key            text    NOT NULL,
    status         text    NOT NULL,
    environment    text    NOT NULL,
    model          text    NOT NULL,
    version        text    NOT NULL,
    model_digest   text    NOT NULL,
    previous       text,
    change_request text,
    required_roles json    NOT NULL,
    gate_allowed   boolean,
    emergency      boolean NOT NULL,
    sign_off_due   text,
    position       bigint  NOT NULL,
    PRIMARY KEY (system, key)
);
CREATE INDEX release_by_digest ON release (system, model_digest, environment);
CREATE INDEX release_by_status ON release (status, system);
CREATE INDEX release_by_due ON release (sign_off_due) WHERE sign_off_due IS NOT NULL;

-- The release that an environment has, or had last, and since when.
CREATE TABLE environment (
    system      text NOT NULL,
    environment text NOT NULL,
    release     text NOT NULL,
    since       text NOT NULL,
    PRIMARY KEY (system, environment)
);

CREATE TABLE sign_off (
    system          text    NOT NULL,
    release         text    NOT NULL,
    role            text    NOT NULL,
    evidence_digest text    NOT NULL,
    declined        boolean NOT NULL,
    waiver          text,
    PRIMARY KEY (system, release, role)
);

CREATE TABLE waiver (
    system               text    NOT NULL,
    key                  text    NOT NULL,
    kind                 text    NOT NULL,
    release              text    NOT NULL,
    requirement          text,
    granted_to           text    NOT NULL,
    compensating_control text    NOT NULL,
    expires_at           text    NOT NULL,
    revoked              boolean NOT NULL,
    PRIMARY KEY (system, key)
);
CREATE INDEX waiver_by_release ON waiver (system, release);

CREATE TABLE nonconformity (
    system text NOT NULL,
    key    text NOT NULL,
    status text NOT NULL,
    record text NOT NULL,
    PRIMARY KEY (system, key)
);

-- Copies of requirements: what is or was in force, and the datasets that criteria are measured on. `position` is that of the
-- event that wrote a row last: whoever has read up to a position needs only the rows above it.

CREATE TABLE requirement (
    system   text    NOT NULL,
    key      text    NOT NULL COLLATE "C",
    revision integer NOT NULL,
    criteria json    NOT NULL,
    in_force boolean NOT NULL,
    position bigint  NOT NULL,
    PRIMARY KEY (system, key)
);
CREATE INDEX requirement_by_position ON requirement (system, position);

CREATE TABLE dataset (
    system    text    NOT NULL,
    name      text    NOT NULL,
    version   text    NOT NULL,
    digest    text    NOT NULL,
    purpose   text    NOT NULL,
    withdrawn boolean NOT NULL,
    PRIMARY KEY (system, name, version)
);

-- Copies of verification. A standing is the fold of the verifications of one requirement revision and model digest.

CREATE TABLE verification (
    system       text    NOT NULL,
    key          text    NOT NULL,
    requirement  text    NOT NULL,
    revision     integer NOT NULL,
    model_digest text    NOT NULL,
    status       text    NOT NULL,
    suspect      boolean NOT NULL,
    post_hoc     boolean NOT NULL,
    dataset      text    NOT NULL,
    verdicts     json    NOT NULL,
    position     bigint  NOT NULL,
    PRIMARY KEY (system, key)
);
CREATE INDEX verification_by_subject ON verification (system, model_digest, requirement, revision);

CREATE TABLE standing (
    system       text    NOT NULL,
    model_digest text    NOT NULL,
    requirement  text    NOT NULL COLLATE "C",
    revision     integer NOT NULL,
    standing     json    NOT NULL,
    position     bigint  NOT NULL,
    PRIMARY KEY (system, model_digest, requirement, revision)
);
CREATE INDEX standing_by_position ON standing (system, model_digest, position);

-- Copy of drift.

CREATE TABLE monitoring_plan (
    system       text    NOT NULL,
    key          text    NOT NULL,
    model_digest text    NOT NULL,
    approved     boolean NOT NULL,
    PRIMARY KEY (system, key)
);
CREATE INDEX monitoring_plan_by_digest ON monitoring_plan (system, model_digest);
