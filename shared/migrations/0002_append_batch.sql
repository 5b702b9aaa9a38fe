-- Appends the records of many commands under one lock and in one transaction; a command that fails, fails alone and whole.
--
-- Commands are numbered from 1, and so are the streams and systems that their records name: a record refers to its stream by
-- number, a stream to its system (null: it is of the service itself). p_counts says how many records each command has. A record
-- comes without its opening brace. The five arrays of keys and answers may be null when no command has a key.
--
-- `first` is the position of the first record that is appended, `at` their time, `leaf_hashes` theirs in order. `outcomes` has an
-- element only for a command that was not appended: 'conflict' (its stream is at another version, see `versions`), 'answered' (its
-- key was answered before: read the answer), 'reused' (its key was used for another request), and 'stored': only with p_again,
-- which says that the same batch was sent before and its answer got lost; that time it was appended.
CREATE FUNCTION {schema}.append_batch(
    p_again boolean,
    p_subjects text[], p_keys text[], p_fingerprints text[], p_answer_streams text[], p_answer_versions integer[],
    p_counts integer[], p_systems text[], p_streams text[], p_stream_systems integer[],
    p_record_streams integer[], p_versions integer[], p_names text[], p_records text[],
    OUT first bigint, OUT at timestamptz, OUT leaf_hashes bytea[], OUT outcomes text[], OUT versions integer[]
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_head bigint; v_position bigint;
    v_versions integer[];                                            -- of the streams
    v_sequences bigint[]; v_previous bytea[];                        -- of the systems
    v_indexes integer[]; v_events bytea[];                           -- of the records that are appended
    v_first integer; v_last integer := 0; v_stream integer; v_version integer; v_system integer;
    v_sequence bigint; v_outcome text; v_now text; v_event bytea; v_leaf bytea; v_nothing text;
BEGIN
    v_nothing := pg_advisory_xact_lock(hashtext('{schema}.append'));
    SELECT h.position, h.position, greatest(clock_timestamp(), h.recorded_at) INTO v_head, v_position, at FROM head h;
    first := v_head + 1;
    v_now := ',"recorded_at":"' || to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || '","system":';
    IF cardinality(p_streams) = 1 THEN -- faster than the other way when there is one, slower when there are many
        v_versions[1] := coalesce(
            (SELECT e.version FROM event e WHERE e.stream = p_streams[1] ORDER BY e.version DESC LIMIT 1), 0);
    ELSE
        SELECT array_agg(coalesce(
                (SELECT e.version FROM event e WHERE e.stream = s.stream ORDER BY e.version DESC LIMIT 1), 0) ORDER BY s.number)
        INTO v_versions FROM unnest(p_streams) WITH ORDINALITY AS s (stream, number);
    END IF;
    FOR i IN 1 .. cardinality(p_systems) LOOP
        SELECT h.sequence, h.leaf_hash INTO v_sequence, v_leaf FROM system_head h WHERE h.system = p_systems[i];
        v_sequences[i] := coalesce(v_sequence, 0);
        v_previous[i] := v_leaf;
    END LOOP;
    FOR r IN 1 .. cardinality(p_counts) LOOP
        v_first := v_last + 1;
        v_last := v_last + p_counts[r];
        v_outcome := 'appended';
        IF p_keys[r] IS NOT NULL THEN
            v_outcome := coalesce(
                (SELECT CASE WHEN a.fingerprint = p_fingerprints[r] THEN 'answered' ELSE 'reused' END
                FROM answered a WHERE a.subject = p_subjects[r] AND a.key = p_keys[r]), v_outcome);
        END IF;
        FOR i IN v_first .. CASE v_outcome WHEN 'appended' THEN v_last ELSE 0 END LOOP
            v_stream := p_record_streams[i];
            IF v_versions[v_stream] = p_versions[i] - 1 THEN
                v_versions[v_stream] := p_versions[i];
            ELSE
                v_outcome := 'conflict';
                v_version := v_versions[v_stream];
                FOR taken_back IN v_first .. i - 1 LOOP
                    v_stream := p_record_streams[taken_back];
                    v_versions[v_stream] := v_versions[v_stream] - 1;
                END LOOP;
                EXIT;
            END IF;
        END LOOP;
        IF p_again AND v_outcome = 'conflict' THEN
            -- Its own bytes at the end of the stored ones, since what the store adds comes before them.
            PERFORM FROM event e
            WHERE e.stream = p_streams[p_record_streams[v_first]] AND e.version = p_versions[v_first]
                AND right(convert_from(e.event, 'UTF8'), length(p_records[v_first]) + 1) = ',' || p_records[v_first];
            v_outcome := CASE WHEN FOUND THEN 'stored' ELSE v_outcome END;
        END IF;
        IF v_outcome <> 'appended' THEN
            IF outcomes IS NULL THEN
                outcomes := array_fill(NULL::text, ARRAY[cardinality(p_counts)]);
                versions := array_fill(NULL::integer, ARRAY[cardinality(p_counts)]);
            END IF;
            outcomes[r] := v_outcome;
            versions[r] := v_version;
            CONTINUE;
        END IF;
        FOR i IN v_first .. v_last LOOP
            v_system := p_stream_systems[p_record_streams[i]];
            v_position := v_position + 1;
            v_event := convert_to(
                '{{"service":"{service}","position":' || v_position || v_now
                || coalesce(to_json(p_systems[v_system])::text, 'null')
                || ',"system_sequence":' || coalesce((v_sequences[v_system] + 1)::text, 'null')
                || ',"system_previous":' || coalesce('"' || encode(v_previous[v_system], 'hex') || '"', 'null')
                || ',' || p_records[i], 'UTF8');
            v_leaf := sha256('\x00'::bytea || v_event);
            IF v_system IS NOT NULL THEN
                v_sequences[v_system] := v_sequences[v_system] + 1;
                v_previous[v_system] := v_leaf;
            END IF;
            v_indexes[v_position - v_head] := i;
            v_events[v_position - v_head] := v_event;
            leaf_hashes[v_position - v_head] := v_leaf;
        END LOOP;
        IF p_keys[r] IS NOT NULL THEN
            INSERT INTO answered VALUES (
                p_subjects[r], p_keys[r], p_fingerprints[r], p_answer_streams[r], p_answer_versions[r],
                v_position - p_counts[r] + 1, v_position);
        END IF;
    END LOOP;
    IF v_position > v_head THEN
        INSERT INTO event
        SELECT v_head + n.number, p_streams[p_record_streams[n.i]], p_versions[n.i], p_names[n.i],
            p_systems[p_stream_systems[p_record_streams[n.i]]], at, n.leaf, n.event
        FROM unnest(v_indexes, leaf_hashes, v_events) WITH ORDINALITY AS n (i, leaf, event, number);
        FOR i IN 1 .. cardinality(p_systems) LOOP
            CONTINUE WHEN v_previous[i] IS NULL; -- a new system whose commands all failed
            INSERT INTO system_head VALUES (p_systems[i], v_sequences[i], v_previous[i])
            ON CONFLICT (system) DO UPDATE SET sequence = EXCLUDED.sequence, leaf_hash = EXCLUDED.leaf_hash;
        END LOOP;
        UPDATE head SET position = v_position, recorded_at = at;
        v_nothing := pg_notify('prooftrail_appended', '{service}:' || v_position);
    END IF;
END $$;

-- One command alone, for replicas of the version before and for filling a store. Errors: PT409 conflict, PT422 key reused for
-- another request, PT208 answered before.
CREATE OR REPLACE FUNCTION {schema}.append(
    p_subject text, p_key text, p_fingerprint text, p_answer_stream text, p_answer_version integer,
    p_streams text[], p_versions integer[], p_names text[], p_systems text[], p_records text[]
) RETURNS TABLE (at_position bigint, at_time timestamptz, at_leaf_hash bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    v_systems text[]; v_streams text[]; v_stream_systems integer[]; v_record_streams integer[]; v_done record;
BEGIN
    SELECT coalesce(array_agg(DISTINCT system) FILTER (WHERE system IS NOT NULL), '{{}}') INTO v_systems FROM unnest(p_systems) AS system;
    SELECT coalesce(array_agg(stream ORDER BY stream), '{{}}'),
        coalesce(array_agg(array_position(v_systems, system) ORDER BY stream), '{{}}')
    INTO v_streams, v_stream_systems
    FROM (SELECT stream, min(system) AS system FROM unnest(p_streams, p_systems) AS r (stream, system) GROUP BY stream) AS s;
    SELECT coalesce(array_agg(s.number ORDER BY r.number), '{{}}') INTO v_record_streams
    FROM unnest(p_streams) WITH ORDINALITY AS r (stream, number)
    JOIN unnest(v_streams) WITH ORDINALITY AS s (stream, number) ON s.stream = r.stream;
    SELECT * INTO v_done FROM append_batch(
        false, ARRAY[p_subject], ARRAY[p_key], ARRAY[p_fingerprint], ARRAY[p_answer_stream], ARRAY[p_answer_version],
        ARRAY[cardinality(v_record_streams)], v_systems, v_streams, v_stream_systems,
        v_record_streams, p_versions, p_names, ARRAY(SELECT substr(r, 2) FROM unnest(p_records) AS r));
    CASE v_done.outcomes[1]
        WHEN 'answered' THEN RAISE EXCEPTION 'answered before' USING ERRCODE = 'PT208';
        WHEN 'reused' THEN RAISE EXCEPTION 'idempotency key reused' USING ERRCODE = 'PT422';
        WHEN 'conflict' THEN
            RAISE EXCEPTION 'the stream is at version %', v_done.versions[1] USING ERRCODE = 'PT409';
        ELSE NULL;
    END CASE;
    RETURN QUERY
    SELECT v_done.first + l.number - 1, v_done.at, l.leaf_hash
    FROM unnest(v_done.leaf_hashes) WITH ORDINALITY AS l (leaf_hash, number);
END $$;

-- PostgreSQL lets everybody execute a new function.
REVOKE ALL ON FUNCTION {schema}.append_batch FROM PUBLIC;
REVOKE ALL ON FUNCTION {schema}.append FROM PUBLIC;
REVOKE ALL ON FUNCTION {schema}.refuse_change FROM PUBLIC;
