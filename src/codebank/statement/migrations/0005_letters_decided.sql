-- Somebody may decide that a record will never be read: it is kept, with why, and asks for no decision any more.
alter table dead_letter
    add column dismissed_at timestamptz,
    add column dismissed_because text;

-- What Kafka Connect put aside for the search index, as it lies on its topic, each record once however often it was
-- put aside, with what was decided about it.
create table search_letter (
    topic text not null,
    partition int not null,
    "offset" bigint not null,
    reason text not null,
    key bytea not null,
    value bytea not null,
    headers jsonb not null,
    -- what its record tells: Connect writes no moment of its own
    at timestamptz not null,
    -- how often it was put aside
    times int not null default 1,
    replayed_at timestamptz,
    dismissed_at timestamptz,
    dismissed_because text,
    primary key (topic, partition, "offset")
);

-- How far that topic was read.
create table search_letter_position (
    partition int primary key,
    next_offset bigint not null
) with (fillfactor = 50);
