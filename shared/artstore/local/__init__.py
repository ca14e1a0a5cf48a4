"""PostgreSQL, Valkey and SeaweedFS from their wheels, on the loopback address: for `./artstore up` and for tests."""
