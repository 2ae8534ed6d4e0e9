"""All the work of Sluice. Nothing here knows of Airflow."""
