-- The trace that an event belongs to (W3C Trace Context), where that is recorded.
alter table outbox add column traceparent text check (length(traceparent) = 55);
