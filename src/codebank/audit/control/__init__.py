"""The control room: the flow as it is now, and each payment's journey."""
