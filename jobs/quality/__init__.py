"""Reading raw files by contract, Great Expectations suites, and the quality gate."""
