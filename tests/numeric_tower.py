"""The run-time type check of the tests: beartype, with whole numbers accepted where a float is (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
