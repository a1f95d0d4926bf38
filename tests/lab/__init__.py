"""Tests of the measurements: what they say is so, and a run that loses or doubles anything has no figure."""
