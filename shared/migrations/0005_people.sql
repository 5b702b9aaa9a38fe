-- Names and salts are never copied into statistics, where ANALYZE would keep them after an erasure: none are collected, and a
-- column that is given a type, be it its own, loses those that there are. What is deleted all the same is vacuumed soon.
ALTER TABLE {schema}.person
    ALTER COLUMN name TYPE text, ALTER COLUMN salt TYPE text,
    ALTER COLUMN name SET STATISTICS 0, ALTER COLUMN salt SET STATISTICS 0,
    SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);

-- The directory as a compacted feed: every commitment once, at the number of its last change; one that is no longer in `person`
-- was erased. Holds no name. Numbers are given under a lock that is held to the commit, so a reader never passes over one.
CREATE TABLE {schema}.person_change (name_commitment text PRIMARY KEY, number bigint NOT NULL UNIQUE);

CREATE FUNCTION {schema}.note_person_change() RETURNS trigger LANGUAGE plpgsql SET search_path = {schema}, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('{schema}.person_change'));
    INSERT INTO person_change
    SELECT CASE TG_OP WHEN 'DELETE' THEN OLD.name_commitment ELSE NEW.name_commitment END, coalesce(max(number), 0) + 1
    FROM person_change
    ON CONFLICT (name_commitment) DO UPDATE SET number = EXCLUDED.number;
    RETURN NULL;
END $$;
INSERT INTO {schema}.person_change
SELECT name_commitment, row_number() OVER (ORDER BY name_commitment) FROM {schema}.person;
CREATE TRIGGER change_noted AFTER INSERT OR UPDATE OR DELETE ON {schema}.person
    FOR EACH ROW EXECUTE FUNCTION {schema}.note_person_change();
