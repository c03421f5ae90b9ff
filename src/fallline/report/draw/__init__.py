"""The same figure data drawn twice: interactive (plotly) and still (matplotlib)."""
