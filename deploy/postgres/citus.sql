-- The bank's tables over many PostgreSQL servers, distributed by account with Citus (13 or newer), once, on the coordinator,
-- after `codebank migrate`, in the database `bank`, while nobody writes:
--
--     psql --single-transaction --set ON_ERROR_STOP=1 --file citus.sql bank
--
-- docs/scaling.md says when this is needed and what changes in the code with it. Payments, ledger and outbox of an account
-- lie on one server, so a charge commits there alone; what is unique across accounts moves to tables of its own.

create extension if not exists citus;

-- Small, read by every charge, changed rarely: a copy on every server.
select create_reference_table('merchant');

-- A card is found by what its number or token gives, before its account is known. These were unique indexes of `card`; a
-- unique index must hold the column by which a table is distributed, so they become a directory. Its row is written first,
-- when a card is issued, and never changes.
create table card_directory (
    lookup bytea primary key,
    account_id uuid not null,
    card_id uuid not null
);
insert into card_directory (lookup, account_id, card_id)
    select fingerprint, account_id, card_id from card
    union all select sha256(convert_to('token:' || token, 'UTF8')), account_id, card_id from card
    union all select sha256(convert_to('card:' || card_id::text, 'UTF8')), account_id, card_id from card
    union all
    select sha256(convert_to('issue:' || issue_key, 'UTF8')), account_id, card_id from card where issue_key is not null;

-- A merchant's key must name one account for ever, whatever card comes with it the next time. The claim is written first,
-- by itself; the truth is with the account: its key row commits with the money. A claim without one is a charge that did
-- not happen, or has not yet: whoever repeats the key is led to the same account, and is answered there.
create table idempotency_claim (
    claim bytea primary key,
    account_id uuid not null,
    created_at timestamptz not null
);
insert into idempotency_claim (claim, account_id, created_at)
    select sha256(uuid_send(merchant_id) || convert_to(key, 'UTF8')), account_id, created_at
    from idempotency_key where account_id is not null;

-- Tombstones of keys that were cancelled before any charge belong to no account: to the merchant's own, that of refused
-- payments, so that every key has one.
create table idempotency_key_by_account (
    account_id uuid not null,
    merchant_id uuid not null,
    key text not null,
    request_hash bytea,
    payment_id uuid,
    created_at timestamptz not null,
    kind text,
    hash_version smallint,
    answer bytea,
    card_id uuid,
    cancelled_at timestamptz,
    primary key (account_id, merchant_id, key),
    check (request_hash is not null or (payment_id is null and card_id is null))
);
insert into idempotency_key_by_account
    select coalesce(account_id, merchant_id), merchant_id, key, request_hash, payment_id, created_at,
           kind, hash_version, answer, card_id, cancelled_at
    from idempotency_key;
drop table idempotency_key;
alter table idempotency_key_by_account rename to idempotency_key;

alter table card drop constraint card_token_key;
alter table card drop constraint card_fingerprint_key;
alter table card drop constraint card_issue_key_key;
drop index card_by_id;
drop index payment_by_id;
create index payment_by_id on payment (payment_id);
alter table card drop constraint card_account_id_fkey;

-- The same account, the same server: a charge's rows are colocated.
select create_distributed_table('account', 'account_id', shard_count => 128);
select create_distributed_table('card', 'account_id', colocate_with => 'account');
select create_distributed_table('payment', 'account_id', colocate_with => 'account');
select create_distributed_table('idempotency_key', 'account_id', colocate_with => 'account');
select create_distributed_table('entry', 'account_id', colocate_with => 'account');
select create_distributed_table('outbox', 'account_id', colocate_with => 'account');
alter table card add constraint card_account_id_fkey foreign key (account_id) references account;

-- Found by what they are, on whichever server that is.
select create_distributed_table('card_directory', 'lookup', shard_count => 128, colocate_with => 'none');
select create_distributed_table('idempotency_claim', 'claim', shard_count => 128, colocate_with => 'none');
