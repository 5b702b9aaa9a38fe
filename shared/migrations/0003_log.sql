-- The Merkle log over the events: what the sealer derives from them, and what it had signed. The signer's own state is elsewhere.

-- Hash of the complete subtree of 256^level events, number `number` from the left. Level 0 is event.leaf_hash. Derived: may be rebuilt.
CREATE TABLE {schema}.log_tile (
    level  smallint NOT NULL CHECK (level >= 1),
    number bigint   NOT NULL CHECK (number >= 0),
    hash   bytea    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, number)
);

-- `note` is the signed checkpoint; lines of witnesses are added when they arrive.
CREATE TABLE {schema}.log_checkpoint (
    epoch       integer     NOT NULL CHECK (epoch >= 1),
    size        bigint      NOT NULL CHECK (size >= 1),
    root        bytea       NOT NULL CHECK (length(root) = 32),
    note        text        NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (epoch, size)
);

-- At most one row: why nothing is being sealed. The sealer tries again and removes it when it can go on.
CREATE TABLE {schema}.log_refusal (
    one         boolean     PRIMARY KEY DEFAULT true CHECK (one),
    reason      text        NOT NULL,
    what        text        NOT NULL,
    why         text        NOT NULL,
    next_step   text        NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
