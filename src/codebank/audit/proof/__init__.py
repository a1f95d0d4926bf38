"""The proof: reads every side and compares them to the cent."""
