"""How Airflow opens its SQLite database: by name in its configuration."""

# a writer waits for the others instead of failing after SQLite's five seconds
CONNECT_ARGUMENTS = {"timeout": 60}
