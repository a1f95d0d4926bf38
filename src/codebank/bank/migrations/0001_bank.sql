-- The bank: accounts, cards, payments, ledger, idempotency keys and outbox.
--
-- Every row that belongs to an account carries account_id first in its primary key, so that the schema can be
-- distributed by account. Amounts are whole minor units.

create table merchant (
    merchant_id uuid primary key,
    name text not null check (length(name) between 1 and 80),
    -- ISO 18245 merchant category code
    category_code text not null check (category_code ~ '^[0-9]{4}$'),
    status text not null default 'open' check (status in ('open', 'closed')),
    -- SHA-256 of the API key; the key itself is random and long, so it needs no slow hash
    api_key_hash bytea not null unique check (length(api_key_hash) = 32),
    created_at timestamptz not null default now()
);

create table account (
    account_id uuid primary key,
    -- 'unmatched': a merchant's own, for refused payments whose card nobody knows
    kind text not null default 'cardholder' check (kind in ('cardholder', 'unmatched')),
    holder_name text not null,
    status text not null default 'open' check (status in ('open', 'closed')),
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    limit_minor bigint not null check (limit_minor >= 0),
    -- balance owed plus holds, changed under this row's lock only
    used_minor bigint not null default 0 check (used_minor >= 0),
    -- number of the account's last event
    sequence bigint not null default 0,
    -- number and hash of the account's last ledger entry
    entry_number bigint not null default 0,
    entry_hash bytea not null default '\x0000000000000000000000000000000000000000000000000000000000000000',
    created_at timestamptz not null,
    constraint used_within_limit check (used_minor <= limit_minor)
) with (fillfactor = 70);

create table card (
    account_id uuid not null references account,
    card_id uuid not null,
    token text not null unique,
    -- keyed MAC of the number: finds a card without reading any number
    fingerprint bytea not null unique check (length(fingerprint) = 32),
    -- the number, AES-256-GCM; the only place where it is kept
    number_sealed bytea not null,
    masked text not null,
    brand text not null,
    expiry_month smallint not null check (expiry_month between 1 and 12),
    expiry_year smallint not null,
    status text not null default 'active' check (status in ('active', 'blocked', 'lost', 'stolen')),
    -- wrong CVV or expiry, counted from the first of a window; cleared by a payment that fits
    wrong_attempts int not null default 0,
    wrong_since timestamptz,
    -- the operator's key, so that a repeated order issues one card
    issue_key text unique,
    created_at timestamptz not null,
    primary key (account_id, card_id)
) with (fillfactor = 80);
create unique index card_by_id on card (card_id);

-- No foreign keys to account from here on: every writer holds the account's lock, so a check per row would only cost.
create table payment (
    account_id uuid not null,
    payment_id uuid not null,
    merchant_id uuid not null,
    idempotency_key text not null,
    status text not null check (status in ('approved', 'declined', 'refunded')),
    decline_code text,
    amount_minor bigint not null check (amount_minor between 1 and 99999999999),
    currency text not null,
    refunded_minor bigint not null default 0 check (refunded_minor between 0 and amount_minor),
    parcelas smallint not null check (parcelas between 1 and 12),
    description text not null,
    merchant_name text not null,
    merchant_category text not null,
    card_id uuid,
    card_masked text not null,
    card_brand text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    primary key (account_id, payment_id),
    check ((status = 'declined') = (decline_code is not null)),
    check (status <> 'refunded' or refunded_minor = amount_minor)
);
create unique index payment_by_id on payment (payment_id);

-- A merchant's key, once used, is taken for ever. Without a payment it is a tombstone: cancelled before it came.
create table idempotency_key (
    merchant_id uuid not null,
    key text not null,
    request_hash bytea,
    account_id uuid,
    payment_id uuid,
    created_at timestamptz not null,
    primary key (merchant_id, key),
    check ((payment_id is null) = (request_hash is null) and (payment_id is null) = (account_id is null))
);

-- Double entry: one row debits one ledger account and credits another. Never changed, never deleted.
-- Kinds: receivable of a cardholder account, payable of a merchant, income, cash.
create table entry (
    account_id uuid not null,
    entry_number bigint not null,
    debit_kind text not null check (debit_kind in ('receivable', 'payable', 'income', 'cash')),
    debit_id uuid not null,
    credit_kind text not null check (credit_kind in ('receivable', 'payable', 'income', 'cash')),
    credit_id uuid not null,
    amount_minor bigint not null check (amount_minor > 0),
    currency text not null,
    payment_id uuid not null,
    created_at timestamptz not null,
    -- SHA-256 over the entry before it and this one's fields; see bank/entry.py
    hash bytea not null check (length(hash) = 32),
    primary key (account_id, entry_number),
    check (debit_kind <> credit_kind or debit_id <> credit_id)
);

create function forbid_change() returns trigger language plpgsql as $$
begin
    raise exception 'ledger entries are never changed or deleted';
end $$;
create trigger entry_is_final before update or delete on entry
    for each row execute function forbid_change();

-- Events committed with the money and not yet on the log. The relay ships a row, then deletes it.
-- `position` orders rows of one account (their writers hold the account's lock); it is not commit order across
-- accounts, so nobody may read "position greater than the last".
create table outbox (
    account_id uuid not null,
    sequence bigint not null check (sequence > 0),
    position bigint generated always as identity,
    event_id uuid not null,
    type text not null,
    occurred_at timestamptz not null,
    value bytea not null,
    created_at timestamptz not null default now(),
    primary key (account_id, sequence)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index outbox_by_position on outbox (position);
