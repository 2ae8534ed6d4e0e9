"""How Airflow's processes open its SQLite database: by name in their configuration."""

# a writer waits for the others instead of failing after SQLite's five seconds
CONNECT_ARGUMENTS = {"timeout": 60}
# The API server notes each action of a user in the thread that serves all requests: where the database is
# held by another request, nobody can let go until this one gives up. So it waits less long than the others.
API_CONNECT_ARGUMENTS = {"timeout": 15}
