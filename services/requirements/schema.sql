CREATE TABLE ai_system (
    key  text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE dataset (
    system    text    NOT NULL,
    name      text    NOT NULL,
    version   text    NOT NULL,
    digest    text    NOT NULL,
    purpose   text    NOT NULL,
    withdrawn boolean NOT NULL,
    PRIMARY KEY (system, name, version)
);

-- The latest revision of every requirement.
CREATE TABLE requirement (
    system   text    NOT NULL,
    key      text    NOT NULL,
    revision integer NOT NULL,
    status   text    NOT NULL,
    title    text    NOT NULL,
    PRIMARY KEY (system, key)
);
CREATE INDEX requirement_by_status ON requirement (status, system);
