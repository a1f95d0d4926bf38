-- The shop: products, baskets, orders. Of a card only its mask and brand are kept.

create table product (
    slug text primary key check (slug ~ '^[a-z0-9-]{1,60}$'),
    place int not null unique,
    price_minor bigint not null check (price_minor > 0),
    name_pt text not null,
    name_en text not null,
    about_pt text not null,
    about_en text not null
);

create table basket (
    basket_id uuid primary key,
    -- the key that the payment page carries: one attempt to pay, however often it is sent
    attempt_key uuid not null,
    created_at timestamptz not null default now()
);

create table basket_line (
    basket_id uuid not null references basket on delete cascade,
    product text not null references product,
    quantity int not null check (quantity between 1 and 99),
    added_at timestamptz not null default clock_timestamp(),
    primary key (basket_id, product)
);

create table orders (
    order_id uuid primary key,
    -- whose page made it; null where REST did
    basket_id uuid,
    -- 'page:…' or 'api:…': the same key never makes a second order
    idempotency_key text not null unique,
    request_hash bytea not null,
    status text not null check (status in ('pending', 'processing', 'paid', 'declined', 'cancelled')),
    total_minor bigint not null check (total_minor between 1 and 99999999999),
    currency text not null,
    parcelas int not null check (parcelas between 1 and 12),
    card_masked text not null,
    card_brand text not null,
    payment_id uuid unique,
    decline_code text,
    advice text,
    created_at timestamptz not null,
    decided_at timestamptz,
    settled_at timestamptz,
    -- when the resolver may look at it again
    resolve_at timestamptz,
    check ((status in ('pending', 'processing')) = (settled_at is null)),
    check (status <> 'paid' or payment_id is not null),
    check ((status = 'declined') = (decline_code is not null))
);
create index order_to_resolve on orders (resolve_at) where status in ('pending', 'processing');

create table order_line (
    order_id uuid not null references orders,
    place int not null,
    product text not null,
    name text not null,
    quantity int not null check (quantity between 1 and 99),
    unit_price_minor bigint not null check (unit_price_minor > 0),
    primary key (order_id, place)
);
