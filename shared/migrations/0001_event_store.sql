-- The append-only store of one service. {schema} and {service} are filled in by shared.migrations.

CREATE TABLE {schema}.event (
    position    bigint      PRIMARY KEY,
    stream      text        NOT NULL,
    version     integer     NOT NULL CHECK (version > 0),
    name        text        NOT NULL,
    system      text,
    recorded_at timestamptz NOT NULL,
    leaf_hash   bytea       NOT NULL,
    event       bytea       NOT NULL,
    UNIQUE (stream, version)
);
CREATE INDEX event_by_system ON {schema}.event (system, position);

-- One row: the counter under the lock gives positions without holes, in commit order.
CREATE TABLE {schema}.head (position bigint NOT NULL, recorded_at timestamptz NOT NULL);
INSERT INTO {schema}.head VALUES (0, '-infinity');

CREATE TABLE {schema}.system_head (system text PRIMARY KEY, sequence bigint NOT NULL, leaf_hash bytea NOT NULL);

CREATE TABLE {schema}.answered (
    subject        text    NOT NULL,
    key            text    NOT NULL,
    fingerprint    text    NOT NULL,
    stream         text    NOT NULL,
    version        integer NOT NULL,
    first_position bigint  NOT NULL,
    last_position  bigint  NOT NULL,
    PRIMARY KEY (subject, key)
);

-- Printed names and salts, apart from the events so that a person can be forgotten.
CREATE TABLE {schema}.person (
    name_commitment text PRIMARY KEY,
    subject         text NOT NULL,
    salt            text NOT NULL,
    name            text NOT NULL,
    UNIQUE (subject, name)
);

-- Positions of the reactions: their effects are events, so they are never rebuilt.
CREATE TABLE {schema}.reaction_position (source text PRIMARY KEY, position bigint NOT NULL);

-- One row: when the service was last alive. Others deny rather than trust a copy of a source that has gone silent.
CREATE TABLE {schema}.pulse (at timestamptz NOT NULL);
INSERT INTO {schema}.pulse VALUES ('-infinity');

CREATE TABLE {schema}.dead_letter (
    source      text        NOT NULL,
    position    bigint      NOT NULL,
    reader      text        NOT NULL,
    error       text        NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, position, reader)
);

CREATE FUNCTION {schema}.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are append-only: % on %.event is refused', TG_OP, TG_TABLE_SCHEMA;
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {schema}.event
    FOR EACH ROW EXECUTE FUNCTION {schema}.refuse_change();
CREATE TRIGGER append_only_table BEFORE TRUNCATE ON {schema}.event
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_change();

-- Appends the records of one command, or nothing. Errors: PT409 another version is in the stream, PT422 the idempotency key
-- was used for another request, PT208 the key was answered before (read the answer).
CREATE FUNCTION {schema}.append(
    p_subject text, p_key text, p_fingerprint text, p_answer_stream text, p_answer_version integer,
    p_streams text[], p_versions integer[], p_names text[], p_systems text[], p_records text[]
) RETURNS TABLE (at_position bigint, at_time timestamptz, at_leaf_hash bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    v_first bigint; v_position bigint; v_now timestamptz; v_event bytea; v_leaf bytea; v_system system_head%ROWTYPE;
    v_fingerprint text; v_current integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('{schema}.append'));
    IF p_key IS NOT NULL THEN
        SELECT a.fingerprint INTO v_fingerprint FROM answered a WHERE a.subject = p_subject AND a.key = p_key;
        IF FOUND THEN
            IF v_fingerprint = p_fingerprint THEN RAISE EXCEPTION 'answered before' USING ERRCODE = 'PT208'; END IF;
            RAISE EXCEPTION 'idempotency key reused' USING ERRCODE = 'PT422';
        END IF;
    END IF;
    SELECT h.position, greatest(clock_timestamp(), h.recorded_at) INTO v_first, v_now FROM head h;
    v_position := v_first;
    FOR i IN 1 .. coalesce(array_length(p_streams, 1), 0) LOOP
        SELECT coalesce(max(e.version), 0) INTO v_current FROM event e WHERE e.stream = p_streams[i];
        IF v_current <> p_versions[i] - 1 THEN
            RAISE EXCEPTION '% is at version %', p_streams[i], v_current USING ERRCODE = 'PT409';
        END IF;
        v_position := v_position + 1;
        v_system := NULL;
        IF p_systems[i] IS NOT NULL THEN
            SELECT * INTO v_system FROM system_head s WHERE s.system = p_systems[i];
        END IF;
        v_event := convert_to(
            '{{"service":"{service}","position":' || v_position
            || ',"recorded_at":"' || to_char(v_now AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            || '","system":' || coalesce(to_json(p_systems[i])::text, 'null')
            || ',"system_sequence":' || CASE WHEN p_systems[i] IS NULL THEN 'null' ELSE (coalesce(v_system.sequence, 0) + 1)::text END
            || ',"system_previous":' || coalesce('"' || encode(v_system.leaf_hash, 'hex') || '"', 'null')
            || ',' || substr(p_records[i], 2), 'UTF8');
        v_leaf := sha256('\x00'::bytea || v_event);
        INSERT INTO event VALUES (v_position, p_streams[i], p_versions[i], p_names[i], p_systems[i], v_now, v_leaf, v_event);
        IF p_systems[i] IS NOT NULL THEN
            INSERT INTO system_head VALUES (p_systems[i], 1, v_leaf)
            ON CONFLICT (system) DO UPDATE SET sequence = system_head.sequence + 1, leaf_hash = EXCLUDED.leaf_hash;
        END IF;
        at_position := v_position; at_time := v_now; at_leaf_hash := v_leaf;
        RETURN NEXT;
    END LOOP;
    IF p_key IS NOT NULL THEN
        INSERT INTO answered VALUES (p_subject, p_key, p_fingerprint, p_answer_stream, p_answer_version, v_first + 1, v_position);
    END IF;
    IF v_position > v_first THEN
        UPDATE head SET position = v_position, recorded_at = v_now;
        PERFORM pg_notify('prooftrail_appended', '{service}:' || v_position);
    END IF;
END $$;
