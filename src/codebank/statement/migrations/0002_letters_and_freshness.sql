-- Records put aside go to their topic too; those that are not there yet are found here.
alter table dead_letter
    add column shipped_at timestamptz,
    -- when it was read at last, after whatever had kept us from it was mended
    add column replayed_at timestamptz;
create index dead_letter_to_ship on dead_letter (at) where shipped_at is null;

-- When each partition was last seen read to its end: if that is long ago, the statement may be behind.
create table freshness (
    partition int primary key,
    caught_up_at timestamptz not null
) with (fillfactor = 50);
