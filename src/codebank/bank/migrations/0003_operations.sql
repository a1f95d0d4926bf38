-- Operations. While a release is rolled out, the one before it works on the same tables: all of this stands beside what
-- that one knows, and what it does not write is derived (see bank/store/rows.py).

-- Counted by every change of what a decision reads: a decision is written only if nothing of it has moved meanwhile.
alter table account add column version bigint not null default 0;
alter table merchant add column version bigint not null default 0;

-- What was charged of the amount, and how often the payment changed; null where the release before wrote the row.
alter table payment
    add column captured_minor bigint check (captured_minor between 0 and amount_minor),
    add column version int check (version > 0);

-- What an entry is for; null where the release before wrote it: `charge` or `refund`, by its direction. Entries to come
-- may belong to something else than a payment.
alter table entry
    add column kind text,
    alter column payment_id drop not null,
    add constraint kind_has_its_direction check (
        kind is null or kind not in ('charge', 'refund') or (kind = 'charge') = (debit_kind = 'receivable')
    );

-- A caller's key: `merchant_id` is the caller, a merchant or the operator. Null columns are the release before's.
alter table idempotency_key
    -- what was asked; null: authorize
    add column kind text,
    -- how `request_hash` was made; null: 1
    add column hash_version smallint,
    -- what was answered first and may have changed since, packed; null: derived
    add column answer bytea,
    -- what it made, where that is a card
    add column card_id uuid,
    -- a cancelled key never answers anything else than what it is now
    add column cancelled_at timestamptz,
    drop constraint idempotency_key_check,
    add constraint tombstone_is_empty check (
        request_hash is not null or (payment_id is null and account_id is null and card_id is null)
    );
update idempotency_key set cancelled_at = created_at where request_hash is null;
update idempotency_key k set cancelled_at = p.updated_at from payment p
where (p.account_id, p.payment_id) = (k.account_id, k.payment_id) and p.status = 'refunded';

-- Whoever changes a row without counting is counted: the release before, or a hand.
create function count_version() returns trigger language plpgsql as $$
begin
    new.version := old.version + 1;
    return new;
end $$;
create trigger account_is_counted before update on account for each row
    when (new.version = old.version) execute function count_version();
create trigger merchant_is_counted before update on merchant for each row
    when (new.version = old.version) execute function count_version();

-- The release before knows one change of a payment: its Cancel gives all of it back.
create function count_payment() returns trigger language plpgsql as $$
begin
    new.version := old.version + 1;
    if new.status = 'refunded' then
        update idempotency_key set cancelled_at = new.updated_at
        where (merchant_id, key) = (new.merchant_id, new.idempotency_key) and cancelled_at is null;
    end if;
    return new;
end $$;
create trigger payment_is_counted before update on payment for each row
    when (new.version is not distinct from old.version) execute function count_payment();

-- Raised inside the statement that writes a batch, so that nothing of it stays.
create function refuse_moved() returns bigint language plpgsql as $$
begin
    raise exception 'what was decided on has moved' using errcode = 'CB001';
end $$;
