CREATE TABLE dataset (
    system    text    NOT NULL,
    name      text    NOT NULL,
    version   text    NOT NULL,
    digest    text    NOT NULL,
    withdrawn boolean NOT NULL,
    PRIMARY KEY (system, name, version)
);

-- Approved revisions; position and leaf hash are those of the approval in the log of requirements.
CREATE TABLE requirement_revision (
    system      text        NOT NULL,
    key         text        NOT NULL,
    revision    integer     NOT NULL,
    criteria    text        NOT NULL,
    position    bigint      NOT NULL,
    leaf_hash   text        NOT NULL,
    approved_at timestamptz NOT NULL,
    in_force    boolean     NOT NULL,
    PRIMARY KEY (system, key, revision)
);

CREATE TABLE model_version (
    system                   text    NOT NULL,
    model                    text    NOT NULL,
    version                  text    NOT NULL,
    digest                   text    NOT NULL,
    training_dataset         text,
    training_dataset_version text,
    parent                   text,
    withdrawn                boolean NOT NULL,
    PRIMARY KEY (system, model, version)
);

CREATE TABLE test_case (
    system   text    NOT NULL,
    key      text    NOT NULL,
    revision integer NOT NULL,
    title    text    NOT NULL,
    author   text    NOT NULL,
    status   text    NOT NULL,
    PRIMARY KEY (system, key)
);

CREATE TABLE evaluation_run (
    system          text NOT NULL,
    key             text NOT NULL,
    model           text NOT NULL,
    version         text NOT NULL,
    model_digest    text NOT NULL,
    dataset         text NOT NULL,
    dataset_version text NOT NULL,
    dataset_digest  text NOT NULL,
    status          text NOT NULL,
    PRIMARY KEY (system, key)
);
CREATE INDEX evaluation_run_attempts ON evaluation_run (system, model_digest, dataset_digest);

CREATE TABLE verification (
    system               text    NOT NULL,
    key                  text    NOT NULL,
    requirement          text    NOT NULL,
    requirement_revision integer NOT NULL,
    model                text    NOT NULL,
    version              text    NOT NULL,
    dataset              text    NOT NULL,
    dataset_version      text    NOT NULL,
    run                  text    NOT NULL,
    author               text    NOT NULL,
    outcome              text    NOT NULL,
    status               text    NOT NULL,
    PRIMARY KEY (system, key)
);
CREATE INDEX verification_by_status ON verification (status, system);
