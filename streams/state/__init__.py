"""The state stage: per-user and per-item state in changelog-backed tables, the as-of join, attribution."""
