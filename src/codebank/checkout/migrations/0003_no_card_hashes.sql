-- Nothing that was made of a card's number is kept: whoever has the shop's secret, and the last four digits, finds the
-- others. That a repeat asks for the same is told by the order itself; null: made by the release before.
alter table orders add column card_expiry text check (card_expiry ~ '^\d{4}-\d{2}$');
alter table orders alter column request_hash set default '';
update orders set request_hash = '' where request_hash <> '';

-- The release before goes on to bring one while a roll-out lasts.
create function drop_request_hash() returns trigger language plpgsql as $$
begin
    new.request_hash := '';
    return new;
end $$;
create trigger drop_request_hash before insert or update on orders
    for each row when (new.request_hash <> '') execute function drop_request_hash();
