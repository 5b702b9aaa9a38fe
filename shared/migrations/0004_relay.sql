-- How far the events are in Kafka, and who sends them. One row.
-- `epoch` counts the leaders: only the one that holds the last number may move the position, and every record names its sender's.
CREATE TABLE {schema}.relay (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch    bigint  NOT NULL CHECK (epoch >= 0),
    position bigint  NOT NULL CHECK (position >= 0)
);
INSERT INTO {schema}.relay VALUES (true, 0, 0);
