-- What a batch writes is sent as rows of these types, one array of rows per part of the statement (bank/store/writing.py):
-- half as dear for driver and server as an array per column. A type is never changed: whoever writes more makes a new one.
create type account_write as (
    account_id uuid, version_before bigint, used_minor bigint, sequence bigint, entry_number bigint, entry_hash bytea,
    version bigint
);
create type merchant_check as (merchant_id uuid, version bigint);
create type account_new as (
    account_id uuid, holder_name text, currency text, limit_minor bigint, used_minor bigint, sequence bigint,
    entry_number bigint, entry_hash bytea, version bigint
);
create type card_write as (
    account_id uuid, card_id uuid, status text, wrong_attempts int, wrong_since timestamptz, version bigint
);
create type card_new as (
    account_id uuid, card_id uuid, token text, fingerprint bytea, number_sealed bytea, masked text, brand text,
    expiry_month smallint, expiry_year smallint, status text, wrong_attempts int, wrong_since timestamptz,
    issue_key text, version bigint
);
create type payment_new as (
    account_id uuid, payment_id uuid, merchant_id uuid, idempotency_key text, status text, decline_code text,
    amount_minor bigint, captured_minor bigint, refunded_minor bigint, currency text, parcelas smallint,
    description text, merchant_name text, merchant_category text, card_id uuid, card_masked text, card_brand text,
    version int
);
create type payment_write as (
    account_id uuid, payment_id uuid, status text, captured_minor bigint, refunded_minor bigint, version int
);
create type entry_new as (
    account_id uuid, entry_number bigint, debit_kind text, debit_id uuid, credit_kind text, credit_id uuid,
    amount_minor bigint, currency text, payment_id uuid, hash bytea, kind text
);
create type event_new as (
    account_id uuid, sequence bigint, event_id uuid, type text, value bytea, traceparent text
);
create type key_new as (
    merchant_id uuid, key text, kind text, request_hash bytea, hash_version smallint, account_id uuid,
    payment_id uuid, card_id uuid, answer bytea, cancelled_at timestamptz
);
create type key_cancelled as (merchant_id uuid, key text);

-- A bank remembers accounts with their cards, and is told by the account's version that they have moved. Whoever changes
-- a card without counting, the release before or a hand, is counted: `version` is the account's with which it changed.
alter table card add column version bigint not null default 0;
create function count_card() returns trigger language plpgsql as $$
begin
    update account set version = version + 1 where account_id = old.account_id;
    return null;
end $$;
-- After the statement: the release before changes the account in the same one.
create trigger card_is_counted after update on card for each row
    when (new.version = old.version) execute function count_card();
create trigger lost_card_is_counted after delete on card for each row execute function count_card();
