"""How claims are measured: forecasting tasks, baselines, price rules, and the report that people read."""
