"""When flows are due: pure functions of a rule, its last slot and now, without a database."""
