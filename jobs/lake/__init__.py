"""The tables: Delta Lake, one declaration each, every write of a day replaces that day atomically."""
