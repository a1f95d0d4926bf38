"""The whole system on one machine: started in order, kept running, stopped in order."""
