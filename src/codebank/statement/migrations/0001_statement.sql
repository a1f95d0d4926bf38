-- The statement: what the events of the log say, each once. Everything here can be made anew from the log.

create table account (
    account_id uuid primary key,
    holder_name text not null,
    status text not null,
    currency text not null,
    limit_minor bigint not null,
    used_minor bigint not null,
    -- number of the last event that was applied
    sequence bigint not null,
    updated_at timestamptz not null
);

create table line (
    account_id uuid not null,
    payment_id uuid not null,
    -- number of the payment's last event, and of its first
    sequence bigint not null,
    first_sequence bigint not null,
    merchant_name text not null,
    merchant_category text not null,
    description text not null,
    amount_minor bigint not null,
    currency text not null,
    parcelas int not null,
    status text not null check (status in ('approved', 'declined', 'refunded')),
    decline_code text,
    refunded_minor bigint not null,
    card_masked text not null,
    -- what could still be spent once the payment was decided
    available_minor bigint not null,
    occurred_at timestamptz not null,
    -- the day on São Paulo's calendar
    local_day date not null,
    -- when it appeared here first
    projected_at timestamptz not null default clock_timestamp(),
    -- lower case without accents, to be searched
    search_text text not null,
    primary key (account_id, payment_id)
);
create unique index line_by_payment on line (payment_id);
create index line_by_first_sequence on line (account_id, first_sequence desc);
create index line_by_sequence on line (account_id, sequence);

-- How far the projectors have read, written in the transaction of the lines.
create table position (
    topic text not null,
    partition int not null,
    next_offset bigint not null,
    primary key (topic, partition)
) with (fillfactor = 50);

-- Records that nobody could read, kept with the reason: never skipped in silence.
create table dead_letter (
    topic text not null,
    partition int not null,
    "offset" bigint not null,
    reason text not null,
    key bytea not null,
    value bytea not null,
    headers jsonb not null,
    at timestamptz not null default now(),
    primary key (topic, partition, "offset")
);

create table cardholder (
    cardholder_id uuid primary key,
    email text not null unique,
    name text not null,
    password_hash text not null
);

create table cardholder_account (
    cardholder_id uuid not null references cardholder,
    account_id uuid not null,
    place int not null,
    primary key (cardholder_id, account_id)
);

create table session (
    -- SHA-256 of the token that the browser holds
    token_hash bytea primary key,
    cardholder_id uuid not null references cardholder,
    expires_at timestamptz not null
);

-- Wrong sign-ins, by e-mail and by address, counted from the first of a window.
create table sign_in_attempt (
    who text primary key,
    attempts int not null,
    since timestamptz not null
);
