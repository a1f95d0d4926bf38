"""The dashboards: one module each, drawn with `drawing.py`."""
