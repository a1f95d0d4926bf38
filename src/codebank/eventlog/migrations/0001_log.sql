-- The embedded log: topics of twelve partitions, groups whose members share them.

create table topic (
    topic text primary key,
    partitions int not null check (partitions > 0),
    -- counts the writers opened; an append of an earlier one is refused
    writer_epoch bigint not null default 0
);

create table partition_end (
    topic text not null references topic,
    partition int not null,
    next_offset bigint not null default 0,
    primary key (topic, partition)
) with (fillfactor = 50);

create table record (
    topic text not null,
    partition int not null,
    "offset" bigint not null,
    key bytea not null,
    value bytea not null,
    headers jsonb not null,
    appended_at timestamptz not null default now(),
    primary key (partition, topic, "offset")
) partition by list (partition);

do $$
begin
    for number in 0..11 loop
        execute format('create table record_%s partition of record for values in (%s)', number, number);
    end loop;
end $$;

create table member (
    topic text not null,
    "group" text not null,
    member text not null,
    heard_at timestamptz not null,
    primary key (topic, "group", member)
) with (fillfactor = 50);

-- Who reads which partition. One row per partition and group, so that nobody can share one.
create table claim (
    topic text not null,
    "group" text not null,
    partition int not null,
    member text not null,
    primary key (topic, "group", partition)
) with (fillfactor = 50);

insert into topic (topic, partitions) values ('codebank.payments', 12), ('codebank.dead-letters', 12);
insert into partition_end (topic, partition)
select topic, number from topic, generate_series(0, 11) as number;
