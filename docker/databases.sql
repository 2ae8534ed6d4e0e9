-- Run once by Postgres when its volume is empty; it makes the database `airflow` itself.
CREATE DATABASE mlflow;
