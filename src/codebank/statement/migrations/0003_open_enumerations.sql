-- A newer bank may say what this release has no name for: what is not understood is kept as it came.
alter table line drop constraint line_status_check;

-- Which event of its account a record stands for that was put aside: it excuses this number and no other.
alter table dead_letter
    -- 0: no event of the account; null where the release before wrote the row: its header tells
    add column sequence bigint,
    -- set where the record does not tell its number: the event that it came right behind
    add column after_sequence bigint;
-- Any length of key fits into a hash.
create index dead_letter_on_file on dead_letter using hash (key) where replayed_at is null;
