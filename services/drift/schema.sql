CREATE TABLE monitoring_plan (
    system            text NOT NULL,
    key               text NOT NULL,
    model             text NOT NULL,
    version           text NOT NULL,
    model_digest      text NOT NULL,
    owner             text NOT NULL,
    status            text NOT NULL,
    reference_profile text,
    PRIMARY KEY (system, key)
);
CREATE INDEX monitoring_plan_by_model ON monitoring_plan (system, model_digest);

CREATE TABLE plan_activation (
    system      text NOT NULL,
    plan        text NOT NULL,
    environment text NOT NULL,
    release     text NOT NULL,
    PRIMARY KEY (system, plan, environment)
);

-- `content` is the data of the event.
CREATE TABLE drift_window (
    system      text   NOT NULL,
    plan        text   NOT NULL,
    environment text   NOT NULL,
    start       bigint NOT NULL,
    content     jsonb  NOT NULL,
    PRIMARY KEY (system, plan, environment, start)
);

CREATE TABLE drift_signal (
    system       text        NOT NULL,
    key          text        NOT NULL,
    plan         text        NOT NULL,
    environment  text        NOT NULL,
    status       text        NOT NULL,
    triage_until timestamptz NOT NULL,
    window_end   timestamptz NOT NULL,
    PRIMARY KEY (system, key)
);
CREATE INDEX drift_signal_undecided ON drift_signal (triage_until) WHERE status IN ('open', 'acknowledged');

-- Copies of what releases knows.
CREATE TABLE model_version (
    system    text    NOT NULL,
    model     text    NOT NULL,
    version   text    NOT NULL,
    digest    text    NOT NULL,
    withdrawn boolean NOT NULL,
    PRIMARY KEY (system, model, version)
);

-- The model version that runs in an environment now.
CREATE TABLE deployment (
    system       text NOT NULL,
    environment  text NOT NULL,
    model        text NOT NULL,
    model_digest text NOT NULL,
    release      text NOT NULL,
    PRIMARY KEY (system, environment, model)
);

CREATE TABLE nonconformity (
    system text NOT NULL,
    key    text NOT NULL,
    record text NOT NULL,
    PRIMARY KEY (system, key)
);
