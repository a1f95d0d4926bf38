-- How often the bank was asked about an order: whoever waits is told, and a lost answer is not passed over in silence.
alter table orders add column tries int not null default 1 check (tries >= 1);
