-- Raised inside the statement that writes a batch, so that nothing of it stays.
create function refuse_moved() returns bigint language plpgsql as $$
begin
    raise exception 'what the batch was made on has moved' using errcode = 'CB001';
end $$;
